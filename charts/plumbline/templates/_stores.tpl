{{/* Whether the ledger or the blobs are files on the data volume: "yes", or nothing. */}}
{{- define "plumbline.onDisk" -}}
{{- if not (and .Values.ledger.existingSecret .Values.blobs.url) -}}yes{{- end -}}
{{- end -}}

{{/* The settings of an S3-compatible store that are no secret. */}}
{{- define "plumbline.blobsEnv" -}}
{{- with .Values.blobs -}}
{{- $env := dict -}}
{{- if .url -}}
{{- with .endpoint -}}{{- $_ := set $env "AWS_ENDPOINT_URL" . -}}{{- end -}}
{{- with .region -}}{{- $_ := set $env "AWS_DEFAULT_REGION" . -}}{{- end -}}
{{- end -}}
{{- toJson $env -}}
{{- end -}}
{{- end -}}

{{/* Environment that says where the ledger is; what is secret by reference only. */}}
{{- define "plumbline.ledgerEnv" -}}
- name: PLUMBLINE_LEDGER
  {{- if .Values.ledger.existingSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.ledger.existingSecret }}
      key: {{ .Values.ledger.secretKey }}
  {{- else }}
  value: /data/ledger.sqlite
  {{- end }}
{{- end -}}

{{/* Where the ledger and the blobs are, likewise. */}}
{{- define "plumbline.storeEnv" -}}
{{ include "plumbline.ledgerEnv" . }}
- name: PLUMBLINE_BLOBS
  value: {{ default "/data/blobs" .Values.blobs.url }}
{{- range $name, $value := include "plumbline.blobsEnv" . | fromJson }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- if and .Values.blobs.url .Values.blobs.existingSecret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.blobs.existingSecret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The mount and the volume of what is on disk; nothing when nothing is. */}}
{{- define "plumbline.dataMount" -}}
{{- if include "plumbline.onDisk" . }}
- {name: data, mountPath: /data}
{{- end }}
{{- end -}}

{{- define "plumbline.dataVolume" -}}
{{- if include "plumbline.onDisk" . }}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "plumbline.dataClaim" . }}
{{- end }}
{{- end -}}

{{/* Beside the collector, for whoever opens files that it opens too. */}}
{{- define "plumbline.dataAffinity" -}}
{{- if and .Values.collector.enabled (include "plumbline.onDisk" .) }}
affinity:
  {{- include "plumbline.besideCollector" . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
Ports of the ledger and the blobs where they are on servers, as a JSON list: those of the values, and the endpoint's own,
since a policy is held against a Service's port or its pods', by the network plugin.
*/}}
{{- define "plumbline.storePorts" -}}
{{- $ports := list }}
{{- if .Values.ledger.existingSecret }}{{ $ports = append $ports (int .Values.ledger.port) }}{{ end }}
{{- if .Values.blobs.url }}
{{- $ports = append $ports (int .Values.blobs.port) }}
{{- with .Values.blobs.endpoint }}
{{- $port := trimPrefix ":" (regexFind ":[0-9]+$" (urlParse .).host) }}
{{- $ports = append $ports (int (default (ternary "443" "80" (hasPrefix "https:" .)) $port)) }}
{{- end }}
{{- end }}
{{- uniq $ports | toJson }}
{{- end -}}
