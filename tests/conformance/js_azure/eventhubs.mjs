// @azure/event-hubs as an application uses it. Run with the case, the connection string, the hub and the way: tcp or ws.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const [name, connectionString, hub, way] = process.argv.slice(2)
const require = createRequire(process.env.GRIDWIRE_NODE_MODULES)
const eventHubs = require('@azure/event-hubs')
const { EventHubProducerClient, EventHubConsumerClient, EventHubBufferedProducerClient } = eventHubs
const { earliestEventPosition, latestEventPosition } = eventHubs

const DEADLINE_MS = 60_000
const options = way === 'ws' ? { webSocketOptions: { webSocket: require('ws') } } : {}
const producer = () => new EventHubProducerClient(connectionString, hub, options)
const consumer = (store, more = {}) =>
  new EventHubConsumerClient('$Default', connectionString, hub, ...(store ? [store] : []), { ...options, ...more })

async function until (what, condition) {
  const end = Date.now() + DEADLINE_MS
  for (;;) {
    const found = await condition()
    if (found) return found
    assert.ok(Date.now() < end, `did not happen in time: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

// Events of one partition from a position on, until there are enough.
async function read (client, partition, startPosition, count, more = {}) {
  const seen = []
  const errors = []
  const subscription = client.subscribe(partition, {
    processEvents: async events => { seen.push(...events) },
    processError: async error => { errors.push(error) }
  }, { startPosition, maxWaitTimeInSeconds: 0.5, ...more })
  await until(`${count} events, not ${seen.length}: ${errors}`, () => seen.length >= count)
  await subscription.close()
  return seen
}

const bodies = events => events.map(event => event.body)

async function sent (values, where = { partitionId: '0' }) {
  const client = producer()
  const batch = await client.createBatch(where)
  for (const value of values) assert.ok(batch.tryAdd({ body: value }))
  await client.sendBatch(batch)
  await client.close()
}

// The interface of a checkpoint store over one Map: what a storage account does elsewhere.
class Store {
  owners = new Map()
  checkpoints = new Map()
  etags = 0

  async listOwnership () { return [...this.owners.values()] }
  async listCheckpoints () { return [...this.checkpoints.values()] }
  async updateCheckpoint (checkpoint) { this.checkpoints.set(checkpoint.partitionId, checkpoint) }
  async claimOwnership (claims) {
    const granted = claims.filter(claim => this.owners.get(claim.partitionId)?.etag === claim.etag)
    return granted.map(claim => {
      const now = { ...claim, etag: String(++this.etags), lastModifiedTimeInMs: Date.now() }
      this.owners.set(claim.partitionId, now)
      return now
    })
  }
}

const cases = {
  async sends () {
    const client = producer()
    assert.deepEqual(await client.getPartitionIds(), ['0', '1'])
    const properties = await client.getEventHubProperties()
    assert.equal(properties.name, hub)
    assert.ok(properties.createdOn instanceof Date)
    assert.equal((await client.getPartitionProperties('0')).isEmpty, true)
    const batch = await client.createBatch({ partitionKey: 'meter-1' })
    const rich = {
      body: { kw: 3.2 }, properties: { unit: 'kW', number: 7 }, contentType: 'application/json', correlationId: 'c-1', messageId: 'm-1'
    }
    assert.ok(batch.tryAdd(rich))
    assert.ok(batch.tryAdd({ body: Buffer.from([0, 255]) }))
    await client.sendBatch(batch)
    await client.sendBatch([{ body: 'one' }, { body: 'two' }], { partitionId: '0' })
    await client.sendBatch([{ body: 'turn' }])
    const full = await client.createBatch({ maxSizeInBytes: 1000 })
    assert.equal(full.tryAdd({ body: 'x'.repeat(2000) }), false)
    await client.close()
    const buffered = new EventHubBufferedProducerClient(connectionString, hub, {
      ...options, maxWaitTimeInMs: 100, onSendEventsErrorHandler: async context => { throw context.error }
    })
    for (let i = 0; i < 50; i++) await buffered.enqueueEvent({ body: `buffered-${i}` }, { partitionId: '1' })
    await buffered.close({ flush: true })
    const reader = consumer()
    const ends = await Promise.all(['0', '1'].map(id => reader.getPartitionProperties(id)))
    assert.equal(ends.reduce((sum, each) => sum + each.lastEnqueuedSequenceNumber + 1, 0), 55)
    const events = []
    for (const { partitionId, lastEnqueuedSequenceNumber } of ends) {
      events.push(...await read(reader, partitionId, earliestEventPosition, lastEnqueuedSequenceNumber + 1))
    }
    const keyed = events.filter(event => event.partitionKey === 'meter-1')
    assert.deepEqual(keyed[0].body, rich.body)
    assert.deepEqual(keyed[0].properties, rich.properties)
    for (const field of ['contentType', 'correlationId', 'messageId']) assert.equal(keyed[0][field], rich[field])
    assert.deepEqual(keyed[1].body, Buffer.from([0, 255]))
    assert.ok(keyed[0].enqueuedTimeUtc instanceof Date)
    const inOrder = bodies(events).filter(body => String(body).startsWith('buffered-'))
    assert.deepEqual(inOrder, Array.from({ length: 50 }, (_, i) => `buffered-${i}`))
    for (const body of ['one', 'two', 'turn']) assert.ok(bodies(events).includes(body))
    await reader.close()
  },

  async positions () {
    await sent(['0', '1', '2', '3'])
    const client = consumer()
    const all = await read(client, '0', earliestEventPosition, 4)
    assert.deepEqual(all.map(event => event.sequenceNumber), [0, 1, 2, 3])
    const hour = new Date(Date.now() - 3_600_000)
    for (const [position, first] of [
      [{ offset: all[1].offset }, 2], [{ offset: all[1].offset, isInclusive: true }, 1],
      [{ sequenceNumber: 2 }, 3], [{ sequenceNumber: 2, isInclusive: true }, 2], [{ enqueuedOn: hour }, 0]
    ]) {
      const seen = await read(client, '0', position, 4 - first, { trackLastEnqueuedEventProperties: true })
      assert.deepEqual(bodies(seen), ['0', '1', '2', '3'].slice(first), JSON.stringify(position))
    }
    await client.close()
  },

  // What is sent while a reader of `latest` reads reaches it, and it alone; it knows where the partition ends.
  async latest () {
    await sent(['before'])
    const client = consumer()
    const seen = []
    let last
    const subscription = client.subscribe('0', {
      processEvents: async (events, context) => {
        seen.push(...bodies(events))
        if (events.length) last = context.lastEnqueuedEventProperties
      },
      processError: async error => { throw error }
    }, { startPosition: latestEventPosition, trackLastEnqueuedEventProperties: true, maxWaitTimeInSeconds: 0.2 })
    const writer = producer()
    await until('an event of afterwards', async () => {
      await writer.sendBatch([{ body: 'after' }], { partitionId: '0' })
      return seen.length > 0
    })
    assert.deepEqual([...new Set(seen)], ['after'])
    assert.ok(last.sequenceNumber > 0)
    await subscription.close()
    await Promise.all([writer.close(), client.close()])
  },

  async owner () {
    await sent(['a'])
    const [first, second] = [consumer(), consumer()]
    const seen = []
    const errors = []
    const subscription = first.subscribe('0', {
      processEvents: async events => { seen.push(...events) },
      processError: async error => { errors.push(error) }
    }, { startPosition: earliestEventPosition, ownerLevel: 1, maxWaitTimeInSeconds: 0.2 })
    await until('the first reads', () => seen.length)
    assert.deepEqual(bodies(await read(second, '0', earliestEventPosition, 1, { ownerLevel: 2 })), ['a'])
    await until('the first is told', () => errors.some(error => error.code === 'ReceiverDisconnectedError'))
    await subscription.close()
    await Promise.all([first.close(), second.close()])
  },

  // Two processors share the partitions; one goes, the other takes over from its checkpoints; nothing is lost.
  async processors () {
    const store = new Store()
    const seen = new Set()
    const start = () => {
      const own = new Set()
      const client = consumer(store, {
        loadBalancingOptions: { strategy: 'greedy', updateIntervalInMs: 200, partitionOwnershipExpirationIntervalInMs: 5_000 }
      })
      const subscription = client.subscribe({
        processInitialize: async context => { own.add(context.partitionId) },
        processClose: async (_, context) => { own.delete(context.partitionId) },
        processEvents: async (events, context) => {
          for (const event of events) seen.add(event.body)
          if (events.length) await context.updateCheckpoint(events[events.length - 1])
        },
        processError: async () => {} // a steal between the two is told of here
      }, { startPosition: earliestEventPosition, maxWaitTimeInSeconds: 0.2 })
      return { own, stop: async () => { await subscription.close(); await client.close() } }
    }
    const one = start()
    await until('one has all', () => one.own.size === 4)
    const two = start()
    await until('they share', () => one.own.size === 2 && two.own.size === 2)
    const writer = producer()
    const expected = []
    for (let i = 0; i < 40; i++) {
      expected.push(`e${i}`)
      await writer.sendBatch([{ body: `e${i}` }], { partitionId: String(i % 4) })
      if (i === 20) await one.stop()
    }
    await until('the other takes over', () => two.own.size === 4)
    await until(`all events, not ${seen.size}`, () => seen.size === expected.length)
    assert.equal(store.checkpoints.size, 4)
    await two.stop()
    await writer.close()
  },

  async refused () {
    const client = new EventHubProducerClient(connectionString.replace(/SharedAccessKey=[^;]*/, 'SharedAccessKey=wrong'), hub, { ...options, retryOptions: { maxRetries: 0 } })
    await assert.rejects(client.sendBatch([{ body: 'out' }]), error => error.code === 'UnauthorizedError')
    await client.close()
  }
}

try {
  await cases[name]()
  console.log('passed')
  process.exit(0)
} catch (problem) {
  console.error(problem)
  process.exit(1)
}
