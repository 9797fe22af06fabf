// What an Everstep worker needs of Kafka: a queue as a member of its group, the control topic, and an outbox.
// The numbers in brackets are those of the rules in docs/worker.md, "What every worker does".

import { randomUUID } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  Consumer, ListOffsetTimestamps, ProduceAcks, Producer, stringDeserializer, stringSerializers
} from '@platformatic/kafka'

const COMMIT_MS = 200
const RETRY_MS = 500
const PATIENCE_MS = 3_000 // a rebalance waits so long for Kafka to have what was said, and the offsets
const BATCH_BYTES = 256 * 1_024
const UNROUTABLE_MS = 30_000 // a topic may seem to be missing while brokers restart

export const log = (event, fields = {}) => console.error(JSON.stringify({ event, ...fields }))
const why = ({ message, errors = [] }) => [message, ...errors.slice(-1).map(why)].join(': ')
const within = (ms, work) => Promise.race([work, sleep(ms, undefined, { ref: false })])

/** A partition that is ours, and how far its offset may move: to the first command that is not done with. [2] */
class Partition {
  #next
  #open = new Set() // in the order of the offsets, in which commands begin

  constructor(start, fields) {
    Object.assign(this, fields)
    this.#next = start
  }

  get position() {
    return this.#open.values().next().value ?? this.#next
  }

  /** Whether a record is new: after a rebalance all those above the committed offset come again. */
  begin(offset) {
    if (offset < this.#next) return false
    this.#next = offset + 1n
    this.#open.add(offset)
    return true
  }

  finish(offset) {
    this.#open.delete(offset)
  }
}

/** Reads a queue. `take` gets each record once, when `mayTake` says so; `checkOutAll` makes what runs this worker's. */
export class Queue {
  #settings
  #on
  #consumer
  #partitions = new Map()
  #held = true // while the group rebalances: nobody knows whose a command is
  #closing = false
  #changes = new EventEmitter()
  #committing

  constructor(settings, on) {
    this.#settings = settings
    this.#on = on
  }

  async read() {
    const timer = setInterval(() => this.#held || this.#commitSoon(), COMMIT_MS)
    while (!this.#closing) {
      await this.#readAsMember().catch(error => log('reading the queue failed, joining again', { error: why(error) }))
      if (!this.#closing) await this.#lose()
    }
    clearInterval(timer)
  }

  /** To be called when `mayTake` may have changed its mind. */
  changed() {
    this.#changes.emit('change')
  }

  /** Leaves the group once what runs is checked out. [19] */
  async close() {
    this.#closing = true
    this.changed()
    await this.#on.checkOutAll()
    await within(PATIENCE_MS, this.#commit()).catch(error => log('the last commit failed', { error: why(error) }))
    await within(PATIENCE_MS, this.#consumer.close(true)).catch(() => {})
  }

  async #readAsMember() {
    const consumer = (this.#consumer = new Consumer({
      ...this.#settings.connection,
      deserializers: { headerKey: stringDeserializer },
      groupId: this.#settings.group,
      sessionTimeout: 6_000,
      rebalanceTimeout: 10_000,
      heartbeatInterval: 1_000,
      maxWaitTime: 500, // less than between two rebalances: what is asked for before one is here before the next
      protocols: [{ name: 'range', version: 0 }],
      partitionAssigner: assignRanges,
      protocolsMetadata: () => this.#beforeJoining() // awaited each time before this member joins the group, or again
    }))
    let stream, failure
    const fail = error => {
      failure = error
      stream?.destroy(error)
    }
    consumer.on('error', fail)
    consumer.on('consumer:group:rebalance', () => (this.#held = true))
    consumer.on('consumer:group:join', joined => this.#joined(joined).catch(fail))
    const { topic, concurrency } = this.#settings
    const options = { topics: [topic], mode: 'committed', fallbackMode: 'earliest', autocommit: false }
    stream = await consumer.consume({ ...options, highWaterMark: concurrency })
    if (failure) throw failure
    for await (const record of stream) {
      while (!this.#closing && (this.#held || !this.#on.mayTake())) await once(this.#changes, 'change')
      if (this.#closing) return
      this.#take(record)
    }
  }

  #take(record) {
    const { offset, metadata } = record
    const partition = this.#partitions.get(record.partition)
    // What was fetched of a partition before it went elsewhere comes again, there or here.
    if (!partition || metadata.consumer.generationId < partition.generation || !partition.begin(offset)) return
    const suspect = offset < partition.end && partition.suspects-- > 0 // another worker may have begun it [8]
    const place = `${record.partition}/${offset}`
    this.#on.take(record, { place, suspect, finish: () => partition.finish(offset) })
  }

  async #beforeJoining() {
    // Told of a rebalance, this is still a member. Else it was taken for lost, and others may have committed meanwhile.
    await this.#handOver(this.#held && this.#partitions.size > 0)
    return Buffer.alloc(0)
  }

  /** What runs becomes this worker's, whoever gets its partition now, and its offset passes. [18] */
  async #handOver(isMember) {
    this.#held = true
    await within(PATIENCE_MS, this.#on.checkOutAll())
    if (isMember) await within(PATIENCE_MS, this.#commit()).catch(() => {})
  }

  async #joined({ assignments, generationId: generation }) {
    const { topic, concurrency } = this.#settings
    const partitions = assignments.flatMap(assignment => assignment.partitions)
    const [ends, starts, committed] = await Promise.all([
      this.#consumer.listOffsets({ topics: [topic] }),
      this.#consumer.listOffsets({ topics: [topic], timestamp: ListOffsetTimestamps.EARLIEST }),
      partitions.length ? this.#consumer.listCommittedOffsets({ topics: [{ topic, partitions }] }) : new Map()
    ])
    if (generation !== this.#consumer.generationId) return // it rebalances again
    const before = this.#partitions
    this.#partitions = new Map(partitions.map(number => {
      const offset = committed.get(topic)[number] ?? -1n // -1: never committed; then the start is, to hold from now on
      const known = before.get(number)
      if (known && offset <= known.position) return [number, known] // else others have worked on it
      const end = ends.get(topic)[number]
      const start = offset < 0n ? starts.get(topic)[number] : offset
      return [number, new Partition(start, { committed: offset, end, suspects: concurrency, generation })]
    }))
    this.#held = false
    this.changed()
  }

  async #commit() {
    const { topic } = this.#settings
    const moved = [...this.#partitions].filter(([, partition]) => partition.position > partition.committed)
    const offsets = moved.map(([partition, { position }]) => ({ topic, partition, offset: position, leaderEpoch: -1 }))
    if (offsets.length) await this.#consumer.commit({ offsets })
    moved.forEach(([, partition], index) => (partition.committed = offsets[index].offset))
  }

  #commitSoon() {
    this.#committing ??= this.#commit()
      .catch(error => log('committing failed, trying again', { error: why(error) }))
      .finally(() => (this.#committing = undefined))
  }

  async #lose() {
    await this.#handOver(!this.#held)
    this.#partitions = new Map()
    await within(PATIENCE_MS, this.#consumer.close(true)).catch(() => {})
    await sleep(RETRY_MS)
  }
}

/** The assignor `range` of all Kafka clients, so that workers in several languages can share a queue. */
function assignRanges(_, members, topics, metadata) {
  const ids = [...members.keys()].sort()
  const bounds = count => ids.map((_, index) => Math.ceil((index * count) / ids.length))
  return ids.map((memberId, index) => {
    const share = topic => {
      const count = metadata.topics.get(topic).partitionsCount
      const [from = 0, to = count] = bounds(count).slice(index, index + 2)
      return { topic, partitions: Array.from({ length: to - from }, (_, number) => from + number) }
    }
    return { memberId, assignments: new Map([...topics].map(topic => [topic, share(topic)])) }
  })
}

/** Passes on what the control topic says from now on, as every worker does for itself; returns when it listens. [4] */
export async function followControl(settings, obey) {
  const { connection, control } = settings
  // A group of its own that commits nothing: this client reads in no other way.
  const consumer = new Consumer({ ...connection, groupId: `${control}.${randomUUID()}` })
  consumer.on('error', error => log('the control topic', { error: why(error) }))
  const stream = await consumer.consume({ topics: [control], mode: 'latest', autocommit: false })
  await once(stream, 'offsets')
  const follow = async () => {
    for await (const { value } of stream) obey(value)
  }
  const again = async error => {
    log('reading the control topic failed, trying again', { error: why(error) })
    await within(PATIENCE_MS, consumer.close(true)).catch(() => {})
    await sleep(RETRY_MS)
    await followControl(settings, obey).catch(again)
  }
  follow().catch(again)
}

/** Sends records, those of a partition in order and one request at a time, until all replicas have them. [16] */
export class Outbox {
  #producer
  #lanes = new Map() // what waits, by partition
  length = 0

  constructor({ connection }) {
    const serializers = { ...stringSerializers, value: value => Buffer.from(value ?? '') }
    this.#producer = new Producer({ ...connection, serializers })
  }

  /** Resolves when Kafka has the record. */
  send(record) {
    const name = `${record.topic}/${record.partition}`
    return new Promise(resolve => {
      const waiting = this.#lanes.get(name) ?? []
      waiting.push({ record, resolve, since: Date.now() })
      this.length++
      if (waiting.length > 1) return
      this.#lanes.set(name, waiting)
      this.#sendAll(name, waiting)
    })
  }

  async close() {
    for (const end = Date.now() + PATIENCE_MS; this.length && Date.now() < end; ) await sleep(20)
    await this.#producer.close().catch(() => {})
  }

  async #sendAll(name, waiting) {
    let alone = false // after a failure, so that one record that Kafka does not take takes no others with it
    while (waiting.length) {
      const batch = alone ? waiting.slice(0, 1) : firstOf(waiting)
      try {
        await this.#producer.send({ messages: batch.map(({ record }) => record), acks: ProduceAcks.ALL })
        alone = false
      } catch (error) {
        const [{ record: { topic, value }, since }] = batch
        log('sending failed', { topic, error: why(error) })
        if (!alone || Date.now() - since < UNROUTABLE_MS) {
          alone = true
          await sleep(RETRY_MS)
          continue
        }
        log('Kafka does not take a record, leaving it out', { topic, value: String(value) })
      }
      this.length -= batch.length
      waiting.splice(0, batch.length).forEach(({ resolve }) => resolve())
    }
    this.#lanes.delete(name)
  }
}

/** As many as fit into one request. */
function firstOf(waiting) {
  let bytes = 0
  const end = waiting.findIndex(({ record: { value } }) => (bytes += value?.length ?? 0) > BATCH_BYTES)
  return waiting.slice(0, end < 0 ? undefined : Math.max(1, end))
}
