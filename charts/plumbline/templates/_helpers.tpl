{{/* Prefix of object names; 40 characters, so that the suffixes stay under 63. Services want a letter first, and no dot:
     an API server would refuse them with half of the release made. */}}
{{- define "plumbline.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if not (contains $name .Release.Name) -}}
{{- $full = printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- $full = $full | trunc 40 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
{{- fail (printf "objects would be called %q, and a Service's name is letters, digits and hyphens in lower case, a letter first: name the release so, or set fullnameOverride" $full) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* Labels that select. Call with (dict "root" $ "component" NAME). */}}
{{- define "plumbline.selector" -}}
app.kubernetes.io/name: plumbline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "plumbline.labels" -}}
{{ include "plumbline.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "plumbline.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "plumbline.dataClaim" -}}
{{- default (printf "%s-data" (include "plumbline.fullname" .)) .Values.storage.data.existingClaim -}}
{{- end -}}

{{- define "plumbline.policiesClaim" -}}
{{- default (printf "%s-policies" (include "plumbline.fullname" .)) .Values.storage.policies.existingClaim -}}
{{- end -}}

{{/* Restricted Pod Security, the pod's half. uid 10001 is the image's user. */}}
{{- define "plumbline.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Restricted Pod Security, the container's half. */}}
{{- define "plumbline.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "plumbline.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
The secret of keys and those of its keys that are passed on: {"secret": NAME, "keys": [...]}. A ledger on a server has no
key file beside it, so its own secret holds the tenant key unless another secret is named.
*/}}
{{- define "plumbline.keys" -}}
{{- if .Values.existingSecret -}}
{{- toJson (dict "secret" .Values.existingSecret "keys" .Values.secretKeys) -}}
{{- else if .Values.ledger.existingSecret -}}
{{- toJson (dict "secret" .Values.ledger.existingSecret "keys" (list "PLUMBLINE_TENANT_KEY")) -}}
{{- else -}}
{{- toJson (dict "secret" "" "keys" list) -}}
{{- end -}}
{{- end -}}

{{/* Environment from that secret, one variable per key, by reference. */}}
{{- define "plumbline.secretEnv" -}}
{{- $from := include "plumbline.keys" . | fromJson }}
{{- range $from.keys }}
{{- if $from.secret }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $from.secret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Beside the collector: SQLite's write-ahead log is shared memory, so everyone who opens it is on one node. */}}
{{- define "plumbline.besideCollector" -}}
podAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "plumbline.selector" (dict "root" . "component" "collector") | nindent 10 }}
{{- end -}}

{{/* The pool of a given name. Call with (dict "root" $ "name" NAME "for" WHAT); fails when there is none. */}}
{{- define "plumbline.pool" -}}
{{- $found := dict -}}
{{- range .root.Values.pools -}}
{{- if eq .name $.name -}}{{- $found = . -}}{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "%s names the pool %q, which is not among .Values.pools" .for .name) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Node labels of a pool: its selector, or the label that carries its name. */}}
{{- define "plumbline.poolSelector" -}}
{{- toYaml (default (dict "plumbline.dev/pool" .name) .selector) -}}
{{- end -}}

{{- define "plumbline.gpuResource" -}}
{{- default "nvidia.com/gpu" .gpuResource -}}
{{- end -}}

{{/* OpenAI-compatible base address of one of the two InferenceServices. Call with (dict "root" $ "leg" LEG). */}}
{{- define "plumbline.predictorUrl" -}}
{{- printf "http://%s-%s-predictor.%s.svc.cluster.local/openai/v1" (include "plumbline.fullname" .root) .leg .root.Release.Namespace -}}
{{- end -}}
