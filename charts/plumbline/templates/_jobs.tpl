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
{{- $from := include "plumbline.keys" . | fromJson }}
secret: {{ $from.secret | quote }}
secretKeys: {{ toJson $from.keys }}
labels:
  {{- include "plumbline.labels" (dict "root" . "component" "ingestion") | nindent 2 }}
resources: {{ toJson .Values.operator.jobs.resources }}
ttlSecondsAfterFinished: {{ int .Values.operator.jobs.ttlSecondsAfterFinished }}
activeDeadlineSeconds: {{ int .Values.operator.jobs.activeDeadlineSeconds }}
{{- /* Where a ShadowEvaluation asks that names no endpoints; empty where the release serves no policies. */}}
{{- range $leg := list "reference" "aligned" }}
{{- $own := ternary (include "plumbline.predictorUrl" (dict "root" $ "leg" $leg)) "" $.Values.serving.enabled }}
{{ $leg }}Url: {{ default $own (get $.Values.shadow (printf "%sUrl" $leg)) | quote }}
{{- end }}
{{- /* Spools of evaluations lie beside the ledger; with ledger and blobs on servers, on the policies volume. */}}
{{- if not (include "plumbline.onDisk" .) }}
data: /spools
spools: /spools/spools
spoolsClaim: {{ include "plumbline.policiesClaim" . }}
{{- end }}
{{- include "plumbline.dataAffinity" . }}
{{- end -}}
