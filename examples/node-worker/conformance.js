// The activities that `everstep conformance` calls, and an example of how activities are written:
// functions of the arguments and a context that knows the attempt.

import { setTimeout as sleep } from 'node:timers/promises'
import { BadArguments, NonRetryable, RetryAfter, Worker } from './worker.js'

class Declined extends NonRetryable {
  fields = [this.message] // from which a workflow rebuilds the error that it declares with `raises=`
}

function number(value) {
  if (typeof value !== 'number') throw new BadArguments(`${JSON.stringify(value)} is not a number`)
  return value
}

const activities = {
  echo: async ([value]) => value,

  pair: async ([first, second], { kwargs }) => [first ?? kwargs.first, second ?? kwargs.second],

  async decline([message]) {
    throw new Declined(message)
  },

  async fail([message]) {
    throw new Error(message, { cause: new Error(`the cause of ${message}`) })
  },

  async retry_after([seconds]) {
    throw new RetryAfter(number(seconds))
  },

  async sleep([seconds], { signal }) {
    const began = Date.now() / 1_000
    await sleep(1_000 * number(seconds), undefined, { signal })
    return began
  },

  async beat([count, every, then], { heartbeat, signal }) {
    for (let done = 1; done <= count; done++) {
      heartbeat({ done })
      await sleep(1_000 * every, undefined, { signal })
    }
    if (then === 'fail') throw new Error(`failed after ${count} heartbeats`)
    if (then === 'hang') await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    return count
  },

  until_cancelled: async (_, { signal }) => signal.aborted || new Promise(end => signal.addEventListener('abort', end)),

  attempt_info: async (_, { workflowId, run, attempt, idempotencyKey, lastHeartbeat }) => ({
    workflow_id: workflowId,
    run,
    attempt,
    idempotency_key: idempotencyKey,
    last_heartbeat: lastHeartbeat
  }),

  big: async ([size]) => 'x'.repeat(number(size))
}

await new Worker(activities).run()
