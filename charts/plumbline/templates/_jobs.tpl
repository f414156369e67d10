{{/* The settings of ingestion Jobs: plumbline.reconcile.kubernetes.JobSettings, as YAML. */}}
{{- define "plumbline.jobSettings" -}}
image: {{ include "plumbline.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ toJson .Values.image.pullSecrets }}
serviceAccount: {{ include "plumbline.fullname" . }}
claim: {{ include "plumbline.dataClaim" . }}
ledger: /data/ledger.sqlite
blobs: /data/blobs
secret: {{ .Values.existingSecret | quote }}
secretKeys: {{ toJson .Values.secretKeys }}
labels:
  {{- include "plumbline.labels" (dict "root" . "component" "ingestion") | nindent 2 }}
resources: {{ toJson .Values.operator.jobs.resources }}
ttlSecondsAfterFinished: {{ int .Values.operator.jobs.ttlSecondsAfterFinished }}
activeDeadlineSeconds: {{ int .Values.operator.jobs.activeDeadlineSeconds }}
{{- if .Values.collector.enabled }}
affinity:
  {{- include "plumbline.besideCollector" . | nindent 2 }}
{{- end }}
{{- end -}}
