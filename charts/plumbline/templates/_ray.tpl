{{/* A Ray pod, head or worker. Call with (dict "root" $ "resources" R "role" ROLE "env" E "sharedMemory" SIZE). */}}
{{- define "plumbline.rayPod" -}}
metadata:
  labels:
    {{- include "plumbline.selector" (dict "root" .root "component" "training") | nindent 4 }}
spec:
  {{- $elastic := .root.Values.training.rayJob.elastic }}
  {{- if and $elastic (eq .role "head") }}
  # The autoscaler's container talks to the API server, under an account that KubeRay makes for this cluster.
  automountServiceAccountToken: true
  {{- else }}
  serviceAccountName: {{ include "plumbline.fullname" .root }}
  automountServiceAccountToken: false
  {{- end }}
  {{- if $elastic }}
  # Autoscaler v2 replaces pods itself.
  restartPolicy: Never
  {{- end }}
  {{- include "plumbline.priority" (dict "root" .root "of" "training") | nindent 2 }}
  {{- include "plumbline.pullSecrets" .root | nindent 2 }}
  securityContext:
    {{- include "plumbline.podSecurity" .root | nindent 4 }}
  {{- if .pool }}
  nodeSelector:
    {{- include "plumbline.poolSelector" .pool | nindent 4 }}
  {{- with .pool.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: ray-{{ .role }}
      image: {{ include "plumbline.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      env:
        {{- toYaml .env | nindent 8 }}
      {{- if eq .role "head" }}
      {{- with .root.Values.training.mlflow }}
      {{- if and .trackingUri .existingSecret }}
      envFrom:
        - secretRef:
            name: {{ .existingSecret }}
      {{- end }}
      {{- end }}
      # All that the head's Service needs: as soon as one port is named here, KubeRay adds none of its own. "metrics"
      # would be Ray's; the run's are the last.
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        - {name: train-metrics, containerPort: 9090}
      {{- end }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      securityContext:
        {{- include "plumbline.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        - {name: objective, mountPath: /etc/plumbline, readOnly: true}
        - {name: policies, mountPath: /policies}
        - {name: tmp, mountPath: /tmp}
        - {name: shared-memory, mountPath: /dev/shm}
  volumes:
    - name: objective
      configMap:
        name: {{ .root.Values.training.rayJob.objectiveConfigMap }}
    - name: policies
      persistentVolumeClaim:
        claimName: {{ include "plumbline.policiesClaim" .root }}
    - name: tmp
      emptyDir: {}
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ .sharedMemory }}
{{- end -}}


{{/* Who goes first when nodes are full. Call with (dict "root" $ "of" "users" | "shadow" | "training"). */}}
{{- define "plumbline.priority" -}}
{{- if .root.Values.priorityClasses.enabled -}}
priorityClassName: {{ include "plumbline.fullname" .root }}-{{ .of }}
{{- end -}}
{{- end -}}
