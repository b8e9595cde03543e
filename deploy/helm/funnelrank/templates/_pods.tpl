{{/* What all pods have in common: the restricted Pod Security profile, the environment, the registry. */}}

{{- define "funnelrank.pod" -}}
serviceAccountName: {{ include "funnelrank.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "funnelrank.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "funnelrank.environment" -}}
envFrom:
  - configMapRef: {name: {{ include "funnelrank.name" . }}}
  {{- if .Values.registry.uri }}
  {{- with .Values.registry.existingSecret }}
  - secretRef: {name: {{ . }}}
  {{- end }}
  {{- end }}
env:
  - name: FUNNELRANK_REDIS_URL
    valueFrom:
      secretKeyRef: {name: {{ include "funnelrank.secret" . }}, key: redis-url}
  - name: FUNNELRANK_ADMIN_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ include "funnelrank.secret" . }}, key: admin-token, optional: true}
  {{- include "funnelrank.storeVariables" . | nindent 2 }}
{{- end }}

{{/* The variables of the client of an object store, for a registry that the service reads there itself. */}}
{{- define "funnelrank.storeVariables" -}}
{{- if .Values.registry.uri }}
{{- range $name, $value := .Values.registry.environment }}
- {name: {{ $name }}, value: {{ include "funnelrank.value" $value | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The registry's volume: a claim, or a folder for the copy of a bucket, by the service or by the sidecar. */}}
{{- define "funnelrank.registryVolume" -}}
- name: registry
  {{- if .Values.registry.claim }}
  persistentVolumeClaim: {claimName: {{ .Values.registry.claim }}}
  {{- else if .Values.registry.uri }}
  emptyDir: {sizeLimit: {{ .Values.registry.cacheSize }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.registry.sync.sizeLimit }}}
- name: sync
  configMap: {name: {{ include "funnelrank.name" . }}-sync}
  {{- end }}
{{- end }}

{{- define "funnelrank.registryMount" -}}
- name: registry
  mountPath: /registry
  {{- if .Values.registry.bucket }}
  readOnly: true
  {{- end }}
{{- end }}

{{/* The sidecar: started before the other containers, which wait until the copy is whole; ended after them. */}}
{{- define "funnelrank.sync" -}}
{{- $bucket := .Values.registry.bucket }}
{{- $backend := get (dict "s3" "s3" "gs" "gcs" "az" "azureblob") (regexFind "^[a-z0-9]+" $bucket) -}}
- name: registry-sync
  image: {{ .Values.registry.sync.image }}
  restartPolicy: Always
  command: [sh, /sync/sync.sh, forever]
  env:
    - {name: SOURCE, value: {{ printf "registry:%s" (regexReplaceAll "^[a-z0-9]+://" $bucket "") | trimSuffix "/" | quote }}}
    - {name: TARGET, value: /registry}
    - {name: INTERVAL_S, value: {{ .Values.registry.sync.intervalS | quote }}}
    - {name: HOME, value: /tmp}
    - {name: RCLONE_CONFIG, value: ""}  # no file: the variables below describe the bucket
    - {name: RCLONE_CONFIG_REGISTRY_TYPE, value: {{ $backend | quote }}}
    - {name: RCLONE_CONFIG_REGISTRY_ENV_AUTH, value: "true"}  # workload identity
    {{- if and (eq $backend "s3") (not .Values.registry.sync.options.provider) }}
    - {name: RCLONE_CONFIG_REGISTRY_PROVIDER, value: AWS}
    {{- end }}
    {{- if and (eq $backend "gcs") (not .Values.registry.sync.options.bucket_policy_only) }}
    - {name: RCLONE_CONFIG_REGISTRY_BUCKET_POLICY_ONLY, value: "true"}
    {{- end }}
    {{- range $name, $value := .Values.registry.sync.options }}
    - {name: RCLONE_CONFIG_REGISTRY_{{ upper $name }}, value: {{ include "funnelrank.value" $value | quote }}}
    {{- end }}
  {{- with .Values.registry.sync.existingSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  startupProbe:
    exec: {command: [test, -f, /registry/rollout.json]}
    periodSeconds: 2
    failureThreshold: 300
  securityContext:
    {{- include "funnelrank.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml .Values.registry.sync.resources | nindent 4 }}
  volumeMounts:
    - {name: registry, mountPath: /registry}
    - {name: sync, mountPath: /sync, readOnly: true}
    - {name: temporary, mountPath: /tmp}
{{- end }}
