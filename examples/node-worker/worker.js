// An Everstep worker in JavaScript: what it does with commands, and what it says of them.
// The numbers in brackets are those of the rules in docs/worker.md, "What every worker does".

import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { followControl, log, Outbox, Queue } from './kafka.js'

const CHECK_OUT_MS = 3_000
const LEASE_SECONDS = 15
const RENEW_MS = 5_000 // three times per lease
const CLEANUP_MS = 2_000 // for code that a stopping worker breaks off
const MOST_TOKENS = 1_000 // in one renewal
const MOST_SKIPPED = 50_000
const MOST_UNSENT = 1_000
const MOST_TEXT = 8_000
const MOST_CAUSES = 8
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Thrown by an activity that no further attempt can help. */
export class NonRetryable extends Error {
  retryable = false
}

/** Thrown by an activity that cannot do anything with its arguments. [6] */
export class BadArguments extends NonRetryable {
  name = 'everstep.errors.PayloadError'
}

/** Thrown by an activity that is to be tried again in so many seconds. */
export class RetryAfter extends Error {
  constructor(seconds) {
    super(`again in ${seconds} s`)
    this.retryAfterSeconds = seconds
  }
}

class PayloadTooLarge extends NonRetryable {}

export function settingsOf(environment = process.env) {
  const prefix = environment.EVERSTEP_TOPIC_PREFIX || 'everstep'
  const queue = environment.EVERSTEP_QUEUE || 'default'
  const name = `${hostname()}-${process.pid}`
  return {
    name,
    connection: { clientId: name, bootstrapBrokers: environment.EVERSTEP_KAFKA_BOOTSTRAP.split(',') },
    topic: `${prefix}.activities.${queue}`,
    group: `${prefix}.worker.${queue}`,
    control: `${prefix}.control`,
    dlq: `${prefix}.dlq`,
    concurrency: Number(environment.EVERSTEP_CONCURRENCY || 100),
    mostBytes: Number(environment.EVERSTEP_MAX_PAYLOAD_BYTES || 1 << 20),
    graceMs: 1_000 * Number(environment.EVERSTEP_GRACE_SECONDS || 25)
  }
}

/** Runs activities, `async (args, context) => result` by name, until a signal stops it. */
export class Worker {
  #activities
  #settings
  #queue
  #outbox
  #running = new Map() // attempts that have no outcome yet, by token
  #skipped = new Set() // tokens of commands that nobody waits for
  #busy = 0 // attempts whose code has not ended, though it may have an outcome

  constructor(activities, settings = settingsOf()) {
    this.#activities = activities
    this.#settings = settings
    this.#outbox = new Outbox(settings)
    this.#queue = new Queue(settings, {
      mayTake: () => this.#busy < settings.concurrency && this.#outbox.length < MOST_UNSENT,
      take: (record, delivery) => this.#take(record, delivery),
      checkOutAll: () => Promise.all([...this.#running.values()].map(attempt => this.#checkOut(attempt)))
    })
  }

  async run() {
    const stopped = new Promise(resolve => ['SIGTERM', 'SIGINT'].forEach(signal => process.once(signal, resolve)))
    await followControl(this.#settings, value => this.#obey(value)) // first, so that what runs here can be cancelled
    setInterval(() => this.#renew(), RENEW_MS)
    this.#queue.read()
    await stopped
    await this.#stop()
    process.exit()
  }

  /** What runs may go on within the grace time, while others have the queue; the rest is given back. [19] */
  async #stop() {
    const idle = async end => {
      while (this.#busy && Date.now() < end) await sleep(20)
    }
    const end = Date.now() + this.#settings.graceMs
    await this.#queue.close()
    await idle(end)
    const left = [...this.#running.values()]
    left.forEach(attempt => this.#end(attempt))
    await idle(Date.now() + CLEANUP_MS)
    left.forEach(attempt => this.#sayProgress(attempt, { released: [attempt.command.token] }))
    await this.#outbox.close()
  }

  // ---- before an attempt begins

  #take(record, { place, suspect, finish }) {
    const command = commandOf(record.value)
    if (!command) return this.#setAside(record).then(finish)
    if (this.#skipped.has(command.token)) return finish() // [5]
    const same = this.#running.get(command.token)
    if (same) return this.#again(same, place, finish)
    const traceparent = record.headers.get('traceparent')
    const attempt = { command, traceparent, place, finish: [finish], stop: new AbortController() }
    const refusal = this.#refusal(command)
    if (refusal) return this.#answer(attempt, 'activity_failed', { error: refusal })
    return this.#start(attempt, suspect || command.suspect)
  }

  /** Why a command does not begin at all. [6] */
  #refusal({ activity, deadline, start_by: startBy }) {
    const hasPassed = instant => instant && Date.parse(instant) <= Date.now()
    if (hasPassed(deadline)) return timedOut('total', `its deadline, ${deadline}, had passed before it could start`)
    if (hasPassed(startBy)) return timedOut('queue', `no worker could start it by ${startBy}`)
    if (Object.hasOwn(this.#activities, activity)) return undefined
    const known = Object.keys(this.#activities).sort().join(', ')
    const message = `the worker ${this.#settings.name} has no activity '${activity}' (it has: ${known})`
    return { type: 'ActivityNotRegistered', message, retryable: true }
  }

  /** The command of an attempt that runs here is not run twice at once. [7] */
  #again(attempt, place, finish) {
    if (!attempt.lease) return attempt.finish.push(finish)
    if (attempt.place === place) return attempt.lease.then(finish)
    return this.#say(attempt, 'activity_started', { lease_seconds: LEASE_SECONDS, again: true }).then(finish)
  }

  async #start(attempt, suspect) {
    this.#running.set(attempt.command.token, attempt)
    this.#busy++
    try {
      if (suspect) await this.#checkOut(attempt) // [8]
      if (attempt.stop.signal.aborted) return
      this.#end(attempt, 'activity_completed', { value: await this.#execute(attempt) })
    } catch (error) {
      this.#end(attempt, 'activity_failed', { error: this.#errorOf(error) })
    } finally {
      this.#busy--
      this.#queue.changed()
    }
  }

  // ---- while it runs

  async #execute(attempt) {
    const { command, stop } = attempt
    const { activity, args = [], timeout_seconds: timeout, heartbeat_timeout_seconds: silence } = command
    const after = (seconds, act) => seconds * 1_000 <= LONGEST_TIMER_MS && setTimeout(act, seconds * 1_000)
    const fail = (which, message) => this.#end(attempt, 'activity_failed', { error: timedOut(which, message) })
    attempt.silence = after(silence, () => fail('heartbeat', `no heartbeat came for ${silence} s`)) // [14]
    attempt.timers = [
      attempt.silence,
      after(timeout, () => fail('attempt', `the attempt took longer than its timeout of ${timeout} s`)), // [10]
      setTimeout(() => this.#checkOut(attempt), CHECK_OUT_MS) // [11]
    ]
    if (command.start_by) this.#checkOut(attempt) // so the run learns that it waits no longer [11]
    const value = await this.#activities[activity](args, {
      workflowId: command.workflow_id,
      run: command.run,
      attempt: command.attempt,
      idempotencyKey: command.idempotency_key,
      deadline: command.deadline && new Date(command.deadline),
      kwargs: command.kwargs ?? {},
      lastHeartbeat: command.heartbeat ?? null,
      signal: stop.signal,
      heartbeat: details => this.#beat(attempt, details)
    })
    return this.#payload(value ?? null, `what the activity '${activity}' returned`)
  }

  /** From Kafka's acknowledgement on nobody else begins it as long as it is renewed, and its offset may pass. [11] */
  #checkOut(attempt) {
    attempt.lease ??= this.#say(attempt, 'activity_started', { lease_seconds: LEASE_SECONDS }).then(() =>
      attempt.finish.splice(0).forEach(finish => finish())
    )
    return attempt.lease
  }

  /** All that is checked out, for each partition of the inbox together. [12] */
  #renew() {
    const held = [...this.#running.values()].filter(attempt => attempt.lease)
    const lanes = Map.groupBy(held, ({ command: { reply_to: to } }) => `${to.topic}/${to.partition}`)
    for (const lane of lanes.values()) {
      const tokens = lane.map(attempt => attempt.command.token)
      while (tokens.length) this.#sayProgress(lane[0], { tokens: tokens.splice(0, MOST_TOKENS), heartbeats: [] })
    }
  }

  /** Called by the code as often as it likes: the first is reported at once, then the latest now and then. [13] */
  #beat(attempt, details) {
    const { command } = attempt
    if (this.#running.get(command.token) !== attempt) return
    if (details !== undefined) attempt.details = this.#payload(details, 'what a heartbeat says')
    if (attempt.silence) attempt.silence.refresh()
    this.#checkOut(attempt)
    const pause = Math.min(RENEW_MS, 400 * (command.heartbeat_timeout_seconds ?? Infinity))
    const wait = Math.max(0, (attempt.reportedAt ?? -Infinity) + pause - performance.now())
    attempt.report ??= setTimeout(() => this.#sayProgress(attempt, { tokens: [command.token] }), wait)
  }

  /** Cancellations: what runs here is ended, what comes later is skipped, and neither is answered. [5, 15] */
  #obey(value) {
    const { kind, token } = parsed(value) ?? {}
    const attempt = this.#running.get(token)
    if (kind !== 'cancel' && (kind !== 'drop' || attempt)) return
    this.#skipped.add(token)
    if (this.#skipped.size > MOST_SKIPPED) this.#skipped.delete(this.#skipped.values().next().value)
    if (!attempt) return
    attempt.finish.forEach(finish => finish())
    this.#end(attempt)
  }

  // ---- when it has ended

  /** The one outcome of an attempt, which may be that nobody waits for one; its code is told if it still runs. [17] */
  #end(attempt, kind, fields) {
    const { command, timers = [], stop } = attempt
    if (this.#running.get(command.token) !== attempt) return
    this.#running.delete(command.token)
    timers.forEach(clearTimeout)
    clearTimeout(attempt.report)
    if (fields?.error?.retryable && attempt.details !== undefined) fields.details = attempt.details
    if (kind) this.#answer(attempt, kind, fields)
    stop.abort(fields?.error && new Error(fields.error.message))
  }

  #answer(attempt, kind, fields) {
    return this.#say(attempt, kind, fields).then(() => attempt.finish.forEach(finish => finish()))
  }

  // ---- what is said

  #say({ command, traceparent }, kind, fields) {
    const { workflow_id, run, seq, attempt, token, reply_to: to } = command
    const body = { workflow_id, run, seq, attempt, token, ...fields }
    const id = kind === 'activity_started' ? `${token}/started` : token
    return this.#send(to, kind, body, { id, key: workflow_id, traceparent })
  }

  /** That attempts go on, or are given back, and how far the code of one is if it has said so since the last time. */
  #sayProgress(attempt, { tokens = [], released = [], heartbeats }) {
    const { command, details, report } = attempt
    if (!heartbeats && report) {
      clearTimeout(report)
      Object.assign(attempt, { report: undefined, reportedAt: performance.now() })
      heartbeats = [{ token: command.token, details: details ?? command.heartbeat ?? null }]
    }
    return this.#send(command.reply_to, 'activities_renewed', { tokens, released, heartbeats }, { id: randomUUID() })
  }

  #send({ topic, partition }, kind, fields, { id, key, traceparent }) {
    const headers = {
      'content-type': 'application/json',
      ce_specversion: '1.0',
      ce_source: '/everstep',
      ce_type: `everstep.${kind.replace('_', '.')}`,
      ce_id: id,
      ...(traceparent && { traceparent: String(traceparent) })
    }
    const value = JSON.stringify({ kind, ...fields, worker: this.#settings.name })
    return this.#outbox.send({ topic, partition, key, headers, value })
  }

  /** What is no command, with its bytes and where it stood. [3] */
  #setAside({ topic, partition, offset, key, value, headers }) {
    log('what lies in the queue is no command, setting it aside', { topic, partition, offset: String(offset) })
    const about = { reason: 'command', detail: 'it is no command', topic, partition, offset }
    const added = Object.entries(about).map(([name, text]) => [`everstep_${name}`, String(text)])
    const record = { topic: this.#settings.dlq, partition: 0, key, value, headers: new Map([...added, ...headers]) }
    return this.#outbox.send(record)
  }

  /** A value as it is now, if it may cross the wire. */
  #payload(value, what) {
    const encoded = JSON.stringify(value)
    const size = Buffer.byteLength(encoded)
    if (size <= this.#settings.mostBytes) return JSON.parse(encoded)
    throw new PayloadTooLarge(`${what} takes ${size} bytes as JSON; ${this.#settings.mostBytes} are allowed`)
  }

  #errorOf(error) {
    try {
      return this.#payload(errorOf(error), 'the error')
    } catch (larger) {
      return errorOf(larger)
    }
  }
}

function parsed(bytes) {
  try {
    return JSON.parse(bytes)
  } catch {
    return undefined
  }
}

function commandOf(bytes) {
  const command = parsed(bytes)
  const { topic, partition } = command?.reply_to ?? {}
  const texts = [command?.token, command?.workflow_id, command?.activity, topic]
  const numbers = [command?.run, command?.seq, command?.attempt, partition]
  return texts.every(text => typeof text === 'string') && numbers.every(Number.isInteger) ? command : undefined
}

function timedOut(which, message) {
  return { type: 'ActivityTimeout', message, retryable: ['attempt', 'heartbeat'].includes(which), fields: { which } }
}

/** An exception as it crosses the wire, with what caused it. */
function errorOf(error, depth = 0) {
  if (!(error instanceof Error)) return { type: 'Error', message: String(error), retryable: true }
  const { name, message, stack = '', cause, retryable = true, retryAfterSeconds, fields } = error
  return {
    type: name === 'Error' ? error.constructor.name : name,
    message: message.slice(0, MOST_TEXT),
    traceback: stack.slice(0, MOST_TEXT),
    cause: cause === undefined || depth === MOST_CAUSES ? undefined : errorOf(cause, depth + 1),
    retryable,
    fields,
    retry_after_seconds: retryAfterSeconds
  }
}
