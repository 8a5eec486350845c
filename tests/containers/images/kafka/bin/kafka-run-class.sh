#!/bin/bash
# A class of Kafka's with its arguments, as in the official distribution.
exec java ${KAFKA_HEAP_OPTS:--Xmx256M} ${KAFKA_OPTS:-} -XX:+UseSerialGC -cp "/opt/kafka/libs/*" \
    -Dorg.slf4j.simpleLogger.showDateTime=true \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
    -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info \
    "$@"
