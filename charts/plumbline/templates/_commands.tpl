{{/*
The pod of a `plumb` command that opens the stores: migration, start-up check, retention, test. Call with
(dict "root" $ "component" COMPONENT "name" CONTAINER "args" LIST "resources" R "sources" BOOL).
*/}}
{{- define "plumbline.commandPod" -}}
metadata:
  labels:
    {{- include "plumbline.selector" . | nindent 4 }}
spec:
  {{- include "plumbline.commandPodSpec" . | nindent 2 }}
{{- end -}}

{{- define "plumbline.commandPodSpec" -}}
restartPolicy: Never
serviceAccountName: {{ include "plumbline.fullname" .root }}
automountServiceAccountToken: false
{{- include "plumbline.pullSecrets" .root }}
{{- include "plumbline.dataAffinity" .root }}
securityContext:
  {{- include "plumbline.podSecurity" .root | nindent 2 }}
containers:
  - {{ include "plumbline.command" . | nindent 4 | trim }}
    {{- if .sources }}
      - {name: sources, mountPath: /etc/plumbline, readOnly: true}
    {{- end }}
volumes:
  {{- include "plumbline.dataVolume" .root | nindent 2 }}
  - name: tmp
    emptyDir: {}
  {{- if .sources }}
  - name: sources
    secret:
      secretName: {{ .root.Values.collector.sourcesSecret }}
      defaultMode: 0440
  {{- end }}
{{- end -}}

{{/*
The container of such a pod. Its mounts come last, so that a caller may add to them. `ledgerOnly`: it is given the ledger,
neither blobs nor keys.
*/}}
{{- define "plumbline.command" -}}
name: {{ .name }}
image: {{ include "plumbline.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args:
  {{- toYaml .args | nindent 2 }}
workingDir: /tmp
env:
  {{- if .ledgerOnly }}
  {{- include "plumbline.ledgerEnv" .root | nindent 2 }}
  {{- else }}
  {{- include "plumbline.storeEnv" .root | nindent 2 }}
  {{- include "plumbline.secretEnv" .root | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- include "plumbline.containerSecurity" .root | nindent 2 }}
volumeMounts:
  {{- if not (and .ledgerOnly .root.Values.ledger.existingSecret) }}
  {{- include "plumbline.dataMount" .root | nindent 2 }}
  {{- end }}
  - {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* Whether anything of this release opens the stores: "yes", or nothing. */}}
{{- define "plumbline.usesStores" -}}
{{- if or .Values.collector.enabled .Values.operator.enabled .Values.toolbox.enabled .Values.shadow.enabled .Values.review.enabled -}}yes{{- end -}}
{{- end -}}

{{/* An init container that waits for the migration. It has no probe, so nobody kills it for waiting. */}}
{{- define "plumbline.afterMigration" -}}
{{- if .Values.migrations.enabled -}}
initContainers:
  - {{ include "plumbline.command" (dict "root" . "name" "after-migration" "ledgerOnly" true "args" (list "stores" "check" "--ledger-only" "--wait=3600") "resources" .Values.migrations.resources) | nindent 4 | trim }}
{{- end }}
{{- end -}}
