// Sends one request as a kafkajs application does, and prints the record of its response.
// Arguments: bootstrap, request topic, response topic, request as JSON.
import { randomUUID } from "node:crypto";
import kafkajs from "kafkajs";

const [bootstrap, requests, responses, request] = process.argv.slice(2);
const { user_id: user, request_id: id } = JSON.parse(request);
const kafka = new kafkajs.Kafka({ brokers: [bootstrap], logLevel: kafkajs.logLevel.ERROR });
const consumer = kafka.consumer({ groupId: `ask-${randomUUID()}` });
const producer = kafka.producer();
await Promise.all([consumer.connect(), producer.connect()]);
await consumer.subscribe({ topic: responses, fromBeginning: true });
const response = new Promise((resolve) => {
  consumer.run({
    eachMessage: async ({ partition, message }) => {
      const value = JSON.parse(message.value.toString());
      if (value.request_id === id) {
        const headers = Object.entries(message.headers).map(([name, text]) => [name, text.toString()]);
        resolve({ partition, key: message.key.toString(), headers: Object.fromEntries(headers), value });
      }
    },
  });
});
const [{ partition }] = await producer.send({
  topic: requests,
  compression: kafkajs.CompressionTypes.GZIP,
  messages: [{ key: user, value: request, headers: { kafka_correlationId: id } }],
});
console.log(JSON.stringify({ sent: partition, ...(await response) }));
await Promise.all([consumer.disconnect(), producer.disconnect()]);
