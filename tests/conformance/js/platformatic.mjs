// @platformatic/kafka as an application uses it.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { broker, more, run, topic, until } from './common.mjs'

const require = createRequire(process.env.GRIDWIRE_NODE_MODULES)
const found = require.resolve('@platformatic/kafka')
const { Admin, Consumer, Producer, ListOffsetTimestamps, stringSerializers, stringDeserializers, ConfigResourceTypes, IncrementalAlterConfigOperationTypes } = await import(pathToFileURL(found))
const base = { clientId: 'conformance', bootstrapBrokers: [broker], retries: 3 }
const groupProtocol = more[0] ?? 'classic'

async function reader (groupId) {
  const timing = groupProtocol === 'classic' ? { sessionTimeout: 6000, heartbeatInterval: 300, rebalanceTimeout: 6000 } : {}
  const consumer = new Consumer({ ...base, groupId, groupProtocol, deserializers: stringDeserializers, maxWaitTime: 300, autocommit: 100, ...timing })
  const seen = []
  consumer.on('error', () => {})
  const stream = await consumer.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest' })
  stream.on('data', message => seen.push(message))
  stream.on('error', problem => { console.error('stream', problem) })
  const size = () => (consumer.assignments ?? []).filter(each => each.topic === topic).flatMap(each => each.partitions).length
  return { consumer, stream, seen, size, async stop () { await stream.close(); await consumer.close() } }
}

await run({
  async codecs () {
    const sent = []
    const codecs = ['none', 'gzip', 'snappy', 'lz4', ...(require('node:zlib').zstdCompressSync ? ['zstd'] : [])]
    for (const compression of codecs) {
      const producer = new Producer({ ...base, serializers: stringSerializers, compression, idempotent: true, acks: -1 })
      const messages = Array.from({ length: 100 }, (_, i) => ({ topic, partition: 0, key: 'k', value: `${compression}-${i}-${'x'.repeat(100)}`, timestamp: BigInt(1_000_000 + sent.length + i), headers: { h: '1' } }))
      const { offsets } = await producer.send({ messages })
      assert.equal(offsets[0].offset, BigInt(sent.length))
      sent.push(...messages.map(message => message.value))
      await producer.close()
    }
    const one = await reader(`group-${topic}`)
    await until('all messages', () => one.seen.length >= sent.length)
    assert.deepEqual(one.seen.map(message => message.value), sent)
    assert.equal(one.seen[0].headers.get('h'), '1')
    const by = async timestamp => (await one.consumer.listOffsets({ topics: [topic], timestamp })).get(topic)[0]
    assert.equal(await by(ListOffsetTimestamps.LATEST), BigInt(sent.length))
    assert.equal(await by(ListOffsetTimestamps.EARLIEST), 0n)
    assert.equal(await by(1_000_333n), 333n)
    await until('positions are committed', async () => {
      const committed = await one.consumer.listCommittedOffsets({ topics: [{ topic, partitions: [0] }] })
      return committed.get(topic)[0] >= BigInt(sent.length - 1)
    })
    await one.stop()
  },

  async group () {
    const producer = new Producer({ ...base, serializers: stringSerializers })
    const send = (prefix, count) => producer.send({ messages: Array.from({ length: count }, (_, i) => ({ topic, partition: i % 6, key: 'k', value: `${prefix}${i}` })) })
    await send('v', 600)
    const one = await reader(`group-${topic}`)
    await until('all messages', () => one.seen.length >= 600)
    const two = await reader(`group-${topic}`)
    await until('two share', () => one.size() === 3 && two.size() === 3)
    await send('w', 60)
    await until('the rest', () => new Set([...one.seen, ...two.seen].map(message => message.value)).size === 660)
    await one.stop()
    await until('one is alone', () => two.size() === 6)
    await two.stop()
    await producer.close()
  },

  async admin () {
    const admin = new Admin(base)
    await admin.createTopics({ topics: [topic], partitions: 2, replicas: 1, configs: [{ name: 'retention.ms', value: '60000' }] })
    await assert.rejects(admin.createTopics({ topics: [topic], partitions: 2, replicas: 1 }))
    await admin.createPartitions({ topics: [{ name: topic, count: 3, assignments: null }] })
    assert.equal((await admin.metadata({ topics: [topic] })).topics.get(topic).partitionsCount, 3)
    const resource = { resourceType: ConfigResourceTypes.TOPIC, resourceName: topic }
    const retention = async () => (await admin.describeConfigs({ resources: [{ ...resource, configurationKeys: ['retention.ms'] }] }))[0].configs[0].value
    assert.equal(await retention(), '60000')
    await admin.incrementalAlterConfigs({ resources: [{ ...resource, configs: [{ name: 'retention.ms', value: '90000', configOperation: IncrementalAlterConfigOperationTypes.SET }] }] })
    assert.equal(await retention(), '90000')
    const groupId = `group-${topic}`
    await admin.alterConsumerGroupOffsets({ groupId, topics: [{ name: topic, partitionOffsets: [{ partition: 0, offset: 0n }] }] })
    assert.ok((await admin.listGroups()).has(groupId))
    const [group] = await admin.listConsumerGroupOffsets({ groups: [{ groupId, topics: [{ name: topic, partitionIndexes: [0] }] }] })
    assert.equal(group.topics[0].partitions[0].committedOffset, 0n)
    await admin.deleteGroups({ groups: [groupId] })
    await admin.deleteTopics({ topics: [topic] })
    assert.ok(!(await admin.listTopics()).includes(topic))
    await admin.close()
  }
})
