{{/* A Ray pod, head or worker. Call with (dict "root" $ "resources" R "role" ROLE "sharedMemory" SIZE). */}}
{{- define "plumbline.rayPod" -}}
metadata:
  labels:
    {{- include "plumbline.selector" (dict "root" .root "component" "training") | nindent 4 }}
spec:
  serviceAccountName: {{ include "plumbline.fullname" .root }}
  automountServiceAccountToken: false
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
