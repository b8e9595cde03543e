{{/* Finds values that contradict each other. All faults are named at once, each with what to do. */}}

{{- define "funnelrank.checks" -}}
{{- $v := .Values }}
{{- $faults := list }}

{{- /* Redis and the secret */}}
{{- if and $v.existingSecret (or $v.redisUrl $v.adminToken) }}
{{- $faults = append $faults "existingSecret excludes redisUrl and adminToken: put both into that secret, as redis-url and admin-token" }}
{{- end }}
{{- if not (or $v.existingSecret $v.redisUrl) }}
{{- $faults = append $faults "the service needs a Redis: set redisUrl, or existingSecret with the key redis-url" }}
{{- end }}
{{- $ports := list }}
{{- range $v.networkPolicy.redis.ports }}{{ $ports = append $ports (toString .) }}{{ end }}
{{- if $v.networkPolicy.enabled }}
{{- range regexFindAll ":[0-9]+(/|,|\\?|$)" $v.redisUrl -1 }}
{{- $port := regexFind "[0-9]+" . }}
{{- if not (has $port $ports) }}
{{- $faults = append $faults (printf "redisUrl has the port %s, which networkPolicy.redis.ports (%s) does not let out: add it" $port (join ", " $ports)) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Settings that the chart sets */}}
{{- $owned := dict "host" "" "port" "" "registry" "registry" "registry_cache" "" "runtime_dir" "" "workers" "workers" "redis_url" "redisUrl or existingSecret" "admin_token" "adminToken or existingSecret" "fusion_file" "fusion" "trusted_keys" "trustedKeys" "exposure_log" "exposureLog" "exposure_spool" "exposureLog.bucket" }}
{{- range $name, $instead := $owned }}
{{- if hasKey $v.settings $name }}
{{- $faults = append $faults (printf "settings.%s is set by the chart: remove it%s" $name (ternary "" (printf " and use %s" $instead) (empty $instead))) }}
{{- end }}
{{- end }}

{{- /* The registry */}}
{{- $registry := $v.registry }}
{{- $named := compact (list $registry.claim $registry.uri $registry.bucket) }}
{{- if gt (len $named) 1 }}
{{- $faults = append $faults "registry.claim, registry.uri and registry.bucket exclude each other: keep one" }}
{{- end }}
{{- if not $named }}
{{- $faults = append $faults "the service needs a registry: set registry.claim, registry.uri or registry.bucket" }}
{{- end }}
{{- if and (hasPrefix "az://" (toString $registry.uri)) (not $registry.environment.AZURE_STORAGE_ACCOUNT_NAME) (not $registry.existingSecret) }}
{{- $faults = append $faults "a registry at az:// needs registry.environment.AZURE_STORAGE_ACCOUNT_NAME, the storage account" }}
{{- end }}
{{- if and (hasPrefix "az://" $registry.bucket) (not $registry.sync.options.account) }}
{{- $faults = append $faults "a bucket at az:// needs registry.sync.options.account, the storage account" }}
{{- end }}

{{- if and $v.exposureLog.claim $v.exposureLog.bucket }}
{{- $faults = append $faults "exposureLog.claim and exposureLog.bucket exclude each other: keep one" }}
{{- end }}

{{- /* The end of a pod */}}
{{- $drain := int64 (default 500 $v.settings.drain_ms) }}
{{- $shutdown := int64 (default 10000 $v.settings.shutdown_timeout_ms) }}
{{- /* The last files of a log are sent for up to 10 s. */}}
{{- $sending := ternary 0 10000 (empty $v.exposureLog.bucket) }}
{{- $needed := add $drain $shutdown $sending }}
{{- if le (mul (int64 $v.terminationGracePeriodSeconds) 1000) $needed }}
{{- $faults = append $faults (printf "terminationGracePeriodSeconds (%d) must be longer than settings.drain_ms and shutdown_timeout_ms together, and 10 s more with exposureLog.bucket (%d ms): raise it, or requests in work are cut off" (int64 $v.terminationGracePeriodSeconds) $needed) }}
{{- end }}

{{- /* Autoscaling */}}
{{- $scaling := $v.autoscaling }}
{{- if and $scaling.enabled (gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas)) }}
{{- $faults = append $faults (printf "autoscaling.minReplicas (%d) is above autoscaling.maxReplicas (%d)" (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas)) }}
{{- end }}
{{- $keda := eq $scaling.inflight.source "keda" }}
{{- if and $scaling.enabled $keda (not (and $scaling.inflight.perPod $scaling.inflight.prometheus)) }}
{{- $faults = append $faults "autoscaling.inflight.source keda needs autoscaling.inflight.perPod and autoscaling.inflight.prometheus" }}
{{- end }}
{{- if and $scaling.enabled (not (dig "requests" "cpu" "" $v.resources)) }}
{{- $faults = append $faults "autoscaling on CPU needs resources.requests.cpu, of which cpuPercent is a share" }}
{{- end }}

{{- /* Memory: a worker takes about 150 MiB beside its item cache. */}}
{{- $limit := dig "limits" "memory" "" $v.resources | toString }}
{{- if regexMatch "^[0-9]+[MG]i$" $limit }}
{{- $mib := regexFind "[0-9]+" $limit | int64 }}
{{- if hasSuffix "Gi" $limit }}{{ $mib = mul $mib 1024 }}{{ end }}
{{- $cache := 64 }}
{{- if hasKey $v.settings "item_cache_mb" }}{{ $cache = int64 $v.settings.item_cache_mb }}{{ end }}
{{- $needed := mul (int64 $v.workers) (add 150 $cache) }}
{{- if gt $needed $mib }}
{{- $faults = append $faults (printf "resources.limits.memory (%s) is below what %d workers need (%d MiB: 150 and item_cache_mb for each): raise it, or lower workers or settings.item_cache_mb" $limit (int64 $v.workers) $needed) }}
{{- end }}
{{- end }}

{{- /* Metrics behind a key */}}
{{- $token := $v.prometheusOperator.tokenSecret }}
{{- if and $v.prometheusOperator.enabled $v.settings.metrics_need_key (not (and $token.name $token.key)) }}
{{- $faults = append $faults "settings.metrics_need_key needs prometheusOperator.tokenSecret with name and key, or Prometheus cannot scrape" }}
{{- end }}

{{- /* Jobs */}}
{{- if and $v.load.enabled (not $v.load.claim) }}
{{- $faults = append $faults "load.enabled needs load.claim, the volume with the tables" }}
{{- end }}
{{- $nightly := $v.nightly }}
{{- if $nightly.enabled }}
{{- range list "image" "recipe" "runsClaim" }}
{{- if not (get $nightly .) }}
{{- $faults = append $faults (printf "nightly.enabled needs nightly.%s" .) }}
{{- end }}
{{- end }}
{{- if not (or $v.exposureLog.claim $v.exposureLog.bucket) }}
{{- $faults = append $faults "nightly.enabled needs exposureLog.claim or exposureLog.bucket: the nightly run reads the log" }}
{{- end }}
{{- if not (or $registry.claim $registry.uri) }}
{{- $faults = append $faults "nightly.enabled needs registry.claim or registry.uri: the copy of a bucket is read only, so nothing can be published into it" }}
{{- end }}
{{- if not (dig "compare" "margins" "" $nightly.config) }}
{{- $faults = append $faults "nightly.enabled needs nightly.config.compare.margins: by task, the largest loss that is accepted" }}
{{- end }}
{{- end }}

{{- range list "log" "source" "recipe" "registry" "work" }}
{{- if hasKey $nightly.config . }}
{{- $faults = append $faults (printf "nightly.config.%s is set by the chart: remove it" .) }}
{{- end }}
{{- end }}

{{- if $faults }}
{{- fail (printf "the values contradict each other:\n- %s" (join "\n- " $faults)) }}
{{- end }}
{{- end }}
