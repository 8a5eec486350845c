#!/bin/bash
# KAFKA_A_B is the property a.b (`__` is `_`, `___` is `-`), as in the official image.
set -euo pipefail
properties=/opt/kafka/config/server.properties
env | while IFS='=' read -r name value; do
    case $name in
        KAFKA_HEAP_OPTS | KAFKA_OPTS | KAFKA_JMX_* | KAFKA_LOG4J_* | KAFKA_CLUSTER_ID) ;;
        KAFKA_*)
            name=${name#KAFKA_}
            name=${name,,}
            name=${name//___/-}
            name=${name//__/$'\1'}
            name=${name//_/.}
            printf '%s=%s\n' "${name//$'\1'/_}" "$value"
            ;;
    esac
done > "$properties"
"$(dirname "$0")/kafka-storage.sh" format --ignore-formatted --config "$properties" --cluster-id "${CLUSTER_ID:?}"
exec env KAFKA_HEAP_OPTS="${KAFKA_HEAP_OPTS:--Xms256m -Xmx512m}" "$(dirname "$0")/kafka-run-class.sh" kafka.Kafka "$properties"
