// A service and a client of Nameko's protocol in Node, with the package amqplib.
//
//   node peer.js serve URL SERVICE             answers calls; prints "ready" first
//   node peer.js call URL SERVICE.METHOD ARGS  calls with a JSON array; prints the reply's body
//
// Both end when their standard input ends.
"use strict";

const amqp = require("amqplib");

const EXCHANGE = "nameko-rpc";
const [role, url, ...rest] = process.argv.slice(2);

process.stdin.resume();
process.stdin.on("end", () => process.exit(0));

const waiting = new Map();

async function request(channel, replies, key, args, headers) {
  const id = `${replies}-${waiting.size}-${process.hrtime.bigint()}`;
  const answer = new Promise((resolve) => waiting.set(id, resolve));
  const body = Buffer.from(JSON.stringify({ args, kwargs: {} }));
  channel.publish(EXCHANGE, key, body, {
    contentType: "application/json",
    correlationId: id,
    replyTo: replies,
    headers,
  });
  return answer;
}

async function replyQueue(channel) {
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.bindQueue(queue, EXCHANGE, queue);
  await channel.consume(queue, (message) => {
    const id = message.properties.correlationId;
    waiting.get(id)(JSON.parse(message.content.toString()));
    waiting.delete(id);
    channel.ack(message);
  });
  return queue;
}

async function main() {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  await channel.assertExchange(EXCHANGE, "topic", { durable: true });
  const replies = await replyQueue(channel);
  if (role === "call") {
    const [key, args] = rest;
    console.log(JSON.stringify(await request(channel, replies, key, JSON.parse(args), {})));
    return;
  }

  const methods = {
    echo: (message, value) => ({ result: value, error: null }),
    headers: ({ properties }) => ({ result: properties.headers, error: null }),
    // JSON.stringify leaves out a key whose value is undefined.
    nothing: () => ({ result: undefined, error: null }),
    // Calls another service with the headers of its own call, as Nameko does.
    hop: ({ properties }, key, args) => request(channel, replies, key, args, properties.headers),
  };
  const [service] = rest;
  const { queue } = await channel.assertQueue(`rpc-${service}`, { autoDelete: true });
  await channel.bindQueue(queue, EXCHANGE, `${service}.*`);
  await channel.consume(queue, async (message) => {
    const { args } = JSON.parse(message.content.toString());
    const method = message.fields.routingKey.split(".").pop();
    const reply = await methods[method](message, ...args);
    channel.publish(EXCHANGE, message.properties.replyTo, Buffer.from(JSON.stringify(reply)), {
      contentType: "application/json",
      correlationId: message.properties.correlationId,
    });
    channel.ack(message);
  });
  console.log("ready");
}

main();
