// rhea as an application uses it: node rhea.mjs CASE HOST PORT HUB; what else a case needs comes as JSON in OPTIONS.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { once } from 'node:events'

const require = createRequire(process.env.GRIDWIRE_NODE_MODULES)
const rhea = require('rhea')
const [name, host, port, hub] = process.argv.slice(2)
const options = JSON.parse(process.env.OPTIONS ?? '{}')
const partition = `${hub}/Partitions/0`

const container = rhea.create_container()
// Everything that has no listener of its own would be thrown.
for (const event of ['error', 'connection_error', 'sender_error', 'receiver_error', 'session_error', 'disconnected']) container.on(event, () => {})

function connect (more = {}) {
  return container.connect({ host, port: Number(port), username: 'anonymous', reconnect: false, ...more })
}

async function until (what, condition, deadlineMs = 60_000) {
  const end = Date.now() + deadlineMs
  while (!condition()) {
    assert.ok(Date.now() < end, `did not happen in time: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

const quiet = () => new Promise(resolve => setTimeout(resolve, 300)) // how long nothing more must come

async function opened (link, event) {
  if (!link.is_open()) await once(link, event)
  return link
}

const sender = (connection, address, more = {}) => opened(connection.open_sender({ target: { address }, ...more }), 'sender_open')
const receiver = (connection, address, more = {}) => opened(connection.open_receiver({ source: { address }, ...more }), 'receiver_open')

async function send (link, message) {
  const delivery = link.send(message)
  await until('accepted', () => delivery.remote_settled)
  assert.equal(delivery.remote_state.constructor.composite_type, 'accepted')
}

function collect (link, settle = delivery => delivery.accept()) {
  const seen = []
  link.on('message', context => { seen.push(context.message); settle(context.delivery) })
  return seen
}

function certificates () {
  const more = { ...options }
  for (const file of ['ca', 'cert', 'key']) if (more[file]) more[file] = readFileSync(more[file])
  return more
}

const cases = {
  async values () {
    const connection = connect()
    const link = await sender(connection, partition)
    const types = rhea.types
    const bodies = [
      'text ü', 7, true, { kw: 3, deep: { a: [1, null] } }, types.wrap_ulong(12), types.wrap_timestamp(1_700_000_000_000),
      rhea.message.data_section(Buffer.from([0, 255])), rhea.message.sequence_section([1, 'two']),
      rhea.message.data_sections([Buffer.from('a'), Buffer.from('b')])
    ]
    for (const [index, body] of bodies.entries()) {
      await send(link, { body, message_id: index, correlation_id: `c-${index}`, content_type: 'a/b', subject: 's', durable: true, priority: 7, ttl: 5000, application_properties: { unit: 'kW', number: index } })
    }
    const seen = collect(await receiver(connection, hub, { autoaccept: false }))
    await until('all values', () => seen.length === bodies.length)
    const plain = seen.map(message => message.body)
    assert.deepEqual(plain.slice(0, 4), ['text ü', 7, true, { kw: 3, deep: { a: [1, null] } }])
    assert.equal(Number(plain[4]), 12)
    assert.equal(Number(plain[5]), 1_700_000_000_000)
    assert.equal(plain[6].typecode, 0x75)
    assert.deepEqual([...plain[6].content], [0, 255])
    assert.equal(plain[7].typecode, 0x76)
    assert.deepEqual(plain[7].content, [1, 'two'])
    assert.deepEqual(plain[8].content.map(String), ['a', 'b'])
    for (const [index, message] of seen.entries()) {
      assert.equal(message.message_id, index)
      assert.equal(message.correlation_id, `c-${index}`)
      assert.deepEqual([message.content_type, message.subject], ['a/b', 's'])
      assert.deepEqual([message.durable, message.priority, message.ttl], [true, 7, 5000])
      assert.deepEqual(message.application_properties, { unit: 'kW', number: index })
      assert.equal(message.message_annotations['x-opt-sequence-number'], index)
    }
  },

  async settling () {
    const connection = connect()
    const settled = await sender(connection, partition, { snd_settle_mode: 1 })
    settled.send({ body: 'settled' })
    const link = await sender(connection, partition, { name: 'unsettled' })
    for (const body of ['one', 'two', 'three']) await send(link, { body })
    const outcomes = { // of the first delivery of each, then of the second
      settled: [each => each.release({ delivery_failed: true }), each => each.accept()],
      one: [each => each.reject()],
      two: [each => each.release(), each => each.accept()],
      three: [each => each.accept()]
    }
    const seen = []
    const from = await receiver(connection, hub, { autoaccept: false, credit_window: 1 })
    from.on('message', ({ message, delivery }) => { seen.push(message); outcomes[message.body].shift()(delivery) })
    await until('released ones again', () => seen.length === 6)
    assert.deepEqual(seen.map(message => message.body).sort(), ['one', 'settled', 'settled', 'three', 'two', 'two'])
    assert.deepEqual(seen.filter(message => message.delivery_count).map(message => message.body), ['settled'])
    await quiet()
    assert.equal(seen.length, 6)
  },

  async credit () {
    const connection = connect()
    const link = await sender(connection, partition)
    for (let number = 0; number < 8; number++) await send(link, { body: number })
    const from = await receiver(connection, hub, { credit_window: 0, autoaccept: false })
    const seen = collect(from)
    from.add_credit(3)
    await until('three', () => seen.length === 3)
    await quiet()
    assert.equal(seen.length, 3)
    const drained = once(from, 'receiver_drained')
    from.drain_credit()
    from.add_credit(10)
    await drained
    assert.deepEqual(seen.map(message => message.body), [0, 1, 2, 3, 4, 5, 6, 7])
    assert.equal(from.credit, 0)
  },

  async large () {
    const body = Buffer.alloc(900_000, 'xyz')
    const connection = connect({ max_frame_size: 4096 })
    const link = await sender(connection, partition)
    await send(link, { body: rhea.message.data_section(body) })
    const seen = collect(await receiver(connection, hub))
    await until('it', () => seen.length === 1)
    assert.ok(body.equals(seen[0].body.content))
  },

  async nodes () {
    const connection = connect()
    const error = async (link, event) => (await once(link, event)) && link.error.condition
    assert.equal(await error(connection.open_receiver({ source: { address: 'nowhere-at-all' } }), 'receiver_error'), 'amqp:not-found')
    assert.equal(await error(connection.open_sender({ target: { address: `${hub}/Partitions/7` } }), 'sender_error'), 'com.microsoft:argument-out-of-range')
    assert.equal(await error(connection.open_sender({ target: { dynamic: true } }), 'sender_error'), 'amqp:not-implemented')
    assert.equal(await error(connection.open_receiver({ source: { address: hub, filter: rhea.filter.selector('colour = 1') } }), 'receiver_error'), 'com.microsoft:argument-error')
    const replies = await opened(connection.open_receiver({ source: { dynamic: true } }), 'receiver_open')
    const seen = collect(replies)
    const ask = await sender(connection, '$management')
    ask.send({ message_id: 'q', reply_to: replies.source.address, application_properties: { operation: 'READ', type: 'com.microsoft:eventhub', name: hub } })
    await until('an answer', () => seen.length === 1)
    assert.deepEqual([seen[0].correlation_id, seen[0].application_properties['status-code'], seen[0].body.partition_count], ['q', 200, 2])
  },

  async reconnect () {
    const connection = connect({ reconnect: true, initial_reconnect_delay: 20, container_id: 'one' })
    const link = await sender(connection, partition, { name: 'out' })
    for (let number = 0; number < 4; number++) await send(link, { body: number })
    const from = await receiver(connection, hub, { name: 'in', autoaccept: false, credit_window: 10 })
    const seen = []
    let settled = 0
    from.on('message', ({ message, delivery }) => { if (seen.push(message.body) <= 2 || seen.length > 4) delivery.accept() })
    from.on('settled', () => settled++)
    await until('four', () => seen.length === 4)
    await quiet() // for the two positions: nobody tells a receiver that settles itself
    const again = once(connection, 'connection_open')
    connection.socket.destroy(new Error('unplugged'))
    await again
    await until('the two that were not settled', () => seen.length === 6)
    assert.deepEqual(seen, [0, 1, 2, 3, 2, 3])
    await until('room to send', () => link.sendable())
    await send(link, { body: 4 })
    await until('what came after', () => seen.length === 7)
  },

  async refused () {
    const connection = connect(certificates())
    const { error } = await new Promise((resolve, reject) => {
      for (const event of ['connection_error', 'disconnected']) connection.on(event, resolve)
      connection.on('connection_open', () => reject(new Error('it was let in')))
    })
    assert.match(`${error?.condition} ${error?.description ?? error?.message}`, /unauthorized|authenticate|SASL layer not enabled/)
  },

  async signed () {
    const connection = connect(certificates())
    await send(await sender(connection, hub), { body: 'in' })
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
