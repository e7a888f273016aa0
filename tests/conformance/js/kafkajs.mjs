// kafkajs as an application uses it.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { broker, run, topic, until } from './common.mjs'

process.env.KAFKAJS_NO_PARTITIONER_WARNING = '1'
const require = createRequire(process.env.GRIDWIRE_NODE_MODULES)
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, logLevel } = require('kafkajs')
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')

const kafka = new Kafka({ clientId: 'conformance', brokers: [broker], logLevel: logLevel.NOTHING })

function reader (groupId, extra = {}) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 300, metadataMaxAge: 1000, maxWaitTimeInMs: 300, ...extra })
  const seen = []
  let assigned = 0
  consumer.on(consumer.events.GROUP_JOIN, event => {
    assigned = Object.values(event.payload.memberAssignment).flat().length
  })
  return {
    consumer,
    seen,
    size: () => assigned,
    async start () {
      await consumer.connect()
      await consumer.subscribe({ topic, fromBeginning: true })
      await consumer.run({ eachMessage: async ({ partition, message }) => { seen.push({ partition, offset: message.offset, value: message.value.toString(), headers: message.headers }) } })
    }
  }
}

await run({
  async codecs () {
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
    await producer.connect()
    let offset = 0
    const sent = []
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP, CompressionTypes.Snappy]) {
      const messages = Array.from({ length: 100 }, (_, i) => ({ key: 'k', value: `${compression}-${i}-${'x'.repeat(100)}`, timestamp: String(1_000_000 + offset + i), headers: { h: '1' } }))
      const [answer] = await producer.send({ topic, compression, acks: -1, messages })
      assert.equal(answer.baseOffset, String(offset))
      offset += messages.length
      sent.push(...messages.map(message => message.value))
    }
    await producer.disconnect()
    const one = reader(`group-${topic}`)
    await one.start()
    await until('all messages', () => one.seen.length >= sent.length)
    assert.deepEqual(one.seen.map(message => message.value), sent)
    assert.equal(one.seen[0].headers.h.toString(), '1')
    await one.consumer.disconnect()
    const admin = kafka.admin()
    await admin.connect()
    assert.deepEqual((await admin.fetchTopicOffsetsByTimestamp(topic, 1_000_233)).map(each => each.offset), ['233'])
    assert.deepEqual((await admin.fetchTopicOffsets(topic)).map(each => [each.low, each.high]), [['0', '300']])
    const [committed] = await admin.fetchOffsets({ groupId: `group-${topic}`, topics: [topic] })
    assert.deepEqual(committed.partitions.map(each => each.offset), ['300'])
    await admin.disconnect()
  },

  async group () {
    const producer = kafka.producer()
    await producer.connect()
    const send = (prefix, count) => producer.send({ topic, messages: Array.from({ length: count }, (_, i) => ({ partition: i % 6, value: `${prefix}${i}` })) })
    await send('v', 600)
    const [one, two] = [reader(`group-${topic}`), reader(`group-${topic}`)]
    await one.start()
    await until('all messages', () => one.seen.length === 600)
    await two.start()
    await until('two share', () => one.size() === 3 && two.size() === 3)
    await send('w', 60)
    const values = () => new Set([...one.seen, ...two.seen].map(message => message.value))
    await until('the rest', () => values().size === 660)
    assert.ok(two.seen.every(message => message.value.startsWith('w')), 'messages were read again after a commit')
    const admin = kafka.admin()
    await admin.connect()
    const { groups: [shown] } = await admin.describeGroups([`group-${topic}`])
    assert.equal(shown.state, 'Stable')
    assert.equal(shown.members.length, 2)
    await admin.disconnect()
    await one.consumer.disconnect()
    await until('one is alone', () => two.size() === 6)
    await two.consumer.disconnect()
    await producer.disconnect()
  },

  async admin () {
    const admin = kafka.admin()
    await admin.connect()
    assert.equal(await admin.createTopics({ topics: [{ topic, numPartitions: 2, replicationFactor: 1, configEntries: [{ name: 'retention.ms', value: '60000' }] }] }), true)
    assert.equal(await admin.createTopics({ topics: [{ topic, numPartitions: 2 }] }), false)
    await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] })
    const { topics: [described] } = await admin.fetchTopicMetadata({ topics: [topic] })
    assert.equal(described.partitions.length, 3)
    const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
    const retention = async () => (await admin.describeConfigs({ resources: [{ ...resource, configNames: ['retention.ms'] }] })).resources[0].configEntries[0].configValue
    assert.equal(await retention(), '60000')
    await admin.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: 'retention.ms', value: '90000' }] }] })
    assert.equal(await retention(), '90000')
    assert.equal((await admin.describeCluster()).brokers.length, 1)
    const groupId = `group-${topic}`
    await admin.setOffsets({ groupId, topic, partitions: [{ partition: 0, offset: '0' }] })
    assert.ok((await admin.listGroups()).groups.some(each => each.groupId === groupId))
    await admin.resetOffsets({ groupId, topic, earliest: true })
    await admin.deleteGroups([groupId])
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '-1' }] })
    await admin.deleteTopics({ topics: [topic] })
    assert.ok(!(await admin.listTopics()).includes(topic))
    await admin.disconnect()
  }
})
