/**
 * Switchboard collector client for browsers, workers and Node >= 18.
 * One ES module without dependencies; served as it is. It adds no global.
 *
 *   <script type="module">
 *     import { createClient } from 'https://collect.example.com/…/client.js'
 *     const collector = createClient({ url: 'https://collect.example.com', key: 'sb_web_…' })
 *     collector.track('page interaction', 'pageview', { path: location.pathname })
 *   </script>
 *
 * A classic script gets it by import('…/client.js').then(({ createClient }) => …).
 *
 * An event gets its id and its time when it is tracked, and leaves the queue
 * when the collector has answered for it: so it may be sent twice, and is
 * stored once. The queue is in localStorage, an entry per event, shared by the
 * tabs of an origin; a Web Lock lets one of them send at a time. What has no
 * room there is kept in memory.
 *
 * When the page is hidden, new events go out at once by beacon. A beacon has
 * no answer, so they stay queued and are sent once more, by this page if it
 * lives on, or by the next one.
 */

const BODY_LIMIT = 1e6 // bytes in a request
const BEACON_LIMIT = 6e4 // bytes; browsers stop at 64 KiB in flight
const STORE_LIMIT = 1e6 // characters; the origin has about 5e6 for everything

let lastMs = 0
let tick = 0

/** A UUIDv7 that counts within a millisecond, so that ids sort as they were made. */
function uuid() {
  const now = Date.now()
  if (now > lastMs) [lastMs, tick] = [now, 0]
  else if (++tick > 4095) [lastMs, tick] = [lastMs + 1, 0]
  const random = Array.from({ length: 8 }, () => Math.random() * 256)
  globalThis.crypto?.getRandomValues(new Uint8Array(8)).forEach((b, i) => { random[i] = b })
  random[0] = (random[0] & 63) | 128
  const hex = (n, digits) => Math.floor(n).toString(16).padStart(digits, '0')
  const all = hex(lastMs, 12) + hex(0x7000 + tick, 4) + random.map(b => hex(b, 2)).join('')
  return all.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

const ORDER = 36 // a queue entry is the uuid of its place, then the event's JSON
const json = ([, entry]) => entry.slice(ORDER)
const bytes = text => new TextEncoder().encode(text).length
const wrap = batch => '{"events":[' + batch.map(json) + ']}'

/** How long a response asks to be left alone, in ms; an hour at most. */
function retryAfter(response) {
  const value = response?.headers.get('retry-after')
  const ms = isNaN(value) ? Date.parse(value) - Date.now() : value * 1000
  return Math.min(Math.max(ms || 0, 0), 3.6e6)
}

/**
 * @param {import('./client.d.ts').Options} options
 * @returns {import('./client.d.ts').Client}
 */
export function createClient(options) {
  const { url, key, app, flushInterval = 2000, maxBatch = 100, maxQueue = 1000, onError = console.warn } = options
  if (typeof url !== 'string' || !key) throw new TypeError('createClient needs url and key')
  const page = typeof document === 'object' // Node's own localStorage is not meant
  const endpoint = url.replace(/\/+$/, '') + '/collector/events'
  const beaconURL = endpoint + '?key=' + encodeURIComponent(key)
  const prefix = `switchboard:${endpoint}:${app || key.split('_')[1]}:`

  let store = options.storage
  let session = options.session
  try { // a page may be forbidden to store
    if (store === undefined && page) store = localStorage
    session ||= page && sessionStorage.getItem('switchboard:session') || uuid()
    if (page && !options.session) sessionStorage.setItem('switchboard:session', session)
  } catch {
    session ||= uuid()
  }
  const locks = store && globalThis.navigator?.locks

  const memory = new Map() // entries that storage did not take
  const fresh = new Set() // names of entries of this page that no beacon has carried
  let count = 0
  let chars = 0
  let limit = BODY_LIMIT
  let failures = 0
  let notBefore = 0 // Retry-After
  let timer
  let busy = 0
  let closed = false
  let chain = Promise.resolve(0)

  function report(kind, message, more) {
    try {
      onError(Object.assign(new Error('collector: ' + message), { kind }, more))
    } catch (error) {
      console.error(error)
    }
  }

  /** All entries as [name, entry], oldest first. */
  function scan() {
    const found = new Map(memory)
    chars = 0
    for (let i = 0; store && i < store.length; i++) {
      const name = store.key(i)
      const entry = name?.startsWith(prefix) && store.getItem(name)
      if (!entry) continue
      chars += entry.length
      found.set(name, entry)
    }
    count = found.size
    return [...found].sort((a, b) => a[1] < b[1] ? -1 : 1)
  }

  function remove(batch) {
    for (const [name] of batch) {
      memory.delete(name)
      store?.removeItem(name)
      fresh.delete(name)
    }
  }

  /** The first entries of a list that fit a request; at least one. */
  function take(list, max) {
    let size = 0
    const n = list.findIndex((entry, i) => i === maxBatch || (size += bytes(json(entry)) + 1) > max && i > 0)
    return n < 0 ? list : list.slice(0, n)
  }

  function arm(delay) {
    clearTimeout(timer)
    timer = closed ? 0 : setTimeout(flush, delay)
  }

  function track(category, name, data, opts = {}) {
    const order = uuid()
    const id = opts.id || order
    const event = { id, session_id: opts.session || session, user_id: opts.userId || client.userId, category, name }
    let entry
    try {
      if (closed) throw Error('closed')
      if (typeof category !== 'string' || !category || typeof name !== 'string' || !name) throw Error('no category or name')
      if ([...event.session_id].length > 256) throw Error('session longer than 256 characters')
      if (JSON.stringify(data ?? {})?.[0] !== '{') throw Error('data is not an object')
      const at = opts.timestamp ?? Date.now()
      const timestamp = typeof at === 'string' ? at : new Date(at).toISOString()
      entry = order + JSON.stringify({ ...event, data: data ?? {}, timestamp })
    } catch (error) {
      return report(closed ? 'closed' : 'invalid', error.message)
    }
    const slot = prefix + id
    if (memory.has(slot) || store?.getItem(slot)) return id
    if (count >= maxQueue) return report('full', count + ' events queued')
    try {
      if (!store || chars + entry.length > STORE_LIMIT) throw 0
      store.setItem(slot, entry)
      chars += entry.length
    } catch {
      memory.set(slot, entry)
    }
    count++
    fresh.add(slot)
    if (!busy && !failures && count >= maxBatch) arm(0)
    else if (!busy && !timer) arm(flushInterval)
    return id
  }

  /** Sends the queue batch by batch until it is empty or an attempt fails. */
  async function send() {
    for (;;) {
      const list = scan()
      if (!list.length || Date.now() < notBefore) return
      const batch = take(list, limit)
      const body = wrap(batch)
      let response, answer, status, cause
      try {
        response = await fetch(endpoint, {
          method: 'POST',
          headers: { Authorization: 'Bearer ' + key, 'Content-Type': 'application/json' },
          body,
          credentials: 'omit',
          signal: AbortSignal.timeout?.(30000)
        })
        status = response.status
        answer = await response.json()
      } catch (error) {
        cause = error
      }
      const taken = status === 202 && answer?.accepted >= 0
      if (taken || status === 422 || status === 413 && batch.length === 1) {
        remove(batch)
        failures = notBefore = 0
        const events = []
        batch.forEach((entry, index) => {
          const errors = taken
            ? answer.rejected?.find(r => r.index === index)?.errors
            : (answer?.errors || [{ location: 'body', message: answer?.detail || 'refused with ' + status }])
                .filter(e => !/events\[/.test(e.location) || e.location.includes(`events[${index}]`))
          if (errors) events.push({ event: JSON.parse(json(entry)), errors })
        })
        if (events.length) report('rejected', events.length + ' events rejected', { status, events })
        continue
      }
      if (status === 413) {
        limit = bytes(body) / 2
        continue
      }
      const refused = status && status !== 202 && status < 500 && ![408, 425, 429].includes(status)
      const wait = retryAfter(response)
      notBefore = wait && Date.now() + wait
      const retryIn = Math.random() * Math.min(6e4, 1000 * 2 ** failures++) + (wait || (refused ? 3e4 : 0))
      arm(retryIn)
      return report(refused ? 'refused' : 'retry', status ? 'answer ' + status : 'no answer', { status, retryIn, cause })
    }
  }

  function flush() {
    clearTimeout(timer)
    timer = 0
    busy++
    return chain = chain
      .then(async () => { await (locks ? locks.request(prefix, send) : send()) })
      .catch(cause => report('retry', 'not sent', { cause }))
      .then(() => {
        busy--
        scan()
        if (count && !timer) arm(Math.max(flushInterval, notBefore - Date.now()))
        return count
      })
  }

  /** Sends by beacon what no beacon has carried; no preflight: text, and the key in the address. */
  function hide({ type }) {
    if (type !== 'pagehide' && document.visibilityState === 'visible') return
    let list = scan().filter(([name]) => fresh.has(name))
    while (list.length && Date.now() >= notBefore) {
      const batch = take(list, BEACON_LIMIT)
      const body = wrap(batch)
      list = list.slice(batch.length)
      batch.forEach(([name]) => fresh.delete(name))
      if (!navigator.sendBeacon?.(beaconURL, body)) {
        fetch(beaconURL, { method: 'POST', body, keepalive: true, credentials: 'omit' })
          .catch(() => batch.forEach(([name]) => fresh.add(name)))
      }
    }
  }

  const listen = verb => {
    globalThis[verb]?.('online', flush)
    if (!page) return
    globalThis[verb]('pagehide', hide)
    document[verb]('visibilitychange', hide)
  }

  async function close() {
    closed = true
    listen('removeEventListener')
    const left = await flush()
    const events = [...memory].map(entry => ({ event: JSON.parse(json(entry)), errors: [] }))
    if (events.length) report('unsent', events.length + ' events unsent', { events })
    return left
  }

  /** @type {import('./client.d.ts').Client} */
  const client = { session, userId: options.userId, track, flush, close, get queued() { return count } }
  listen('addEventListener')
  if (scan().length) arm(flushInterval)
  return client
}
