// Sends the lines of files to Kafka with kafkajs or to NATS with nats.js, one
// after another, each when the one before was acknowledged:
//   node produce.mjs kafka|nats address file…
// CRM_PACKAGES is the folder that holds node_modules.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(process.env.CRM_PACKAGES + '/')
const [to, address, ...files] = process.argv.slice(2)
const lines = files.flatMap(f => readFileSync(f, 'utf8').trimEnd().split('\n').map(JSON.parse))

const targets = {
  async kafka() {
    const { Kafka, logLevel, Partitioners } = require('kafkajs')
    const kafka = new Kafka({ clientId: 'interop', brokers: [address], logLevel: logLevel.ERROR })
    const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
    await producer.connect()
    for (const { topic, key_hex, value } of lines) {
      await producer.send({ topic, messages: [{ key: Buffer.from(key_hex, 'hex'), value }] })
    }
    await producer.disconnect()
  },
  async nats() {
    const { connect, StringCodec } = require('nats')
    const nc = await connect({ servers: address })
    const js = nc.jetstream()
    for (const { topic, value } of lines) {
      const ack = await js.publish('maas.' + topic, StringCodec().encode(value))
      if (ack.stream !== 'MAAS' || !(ack.seq > 0)) throw new Error(JSON.stringify(ack))
    }
    await nc.drain()
  },
}
await targets[to]()
console.log(lines.length)
