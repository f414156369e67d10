{{/* The settings of ingestion Jobs: plumbline.reconcile.kubernetes.JobSettings, as YAML. */}}
{{- define "plumbline.jobSettings" -}}
image: {{ include "plumbline.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ toJson .Values.image.pullSecrets }}
serviceAccount: {{ include "plumbline.fullname" . }}
claim: {{ ternary (include "plumbline.dataClaim" .) "" (not (empty (include "plumbline.onDisk" .))) | quote }}
ledger: /data/ledger.sqlite
ledgerSecret: {{ .Values.ledger.existingSecret | quote }}
ledgerKey: {{ .Values.ledger.secretKey | quote }}
blobs: {{ default "/data/blobs" .Values.blobs.url | quote }}
blobsSecret: {{ ternary .Values.blobs.existingSecret "" (not (empty .Values.blobs.url)) | quote }}
blobsKeys: [AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY]
env: {{ include "plumbline.blobsEnv" . }}
secret: {{ .Values.existingSecret | quote }}
secretKeys: {{ toJson .Values.secretKeys }}
labels:
  {{- include "plumbline.labels" (dict "root" . "component" "ingestion") | nindent 2 }}
resources: {{ toJson .Values.operator.jobs.resources }}
ttlSecondsAfterFinished: {{ int .Values.operator.jobs.ttlSecondsAfterFinished }}
activeDeadlineSeconds: {{ int .Values.operator.jobs.activeDeadlineSeconds }}
{{- include "plumbline.dataAffinity" . }}
{{- end -}}
