/** One thing the collector found wrong with an event. */
export interface FieldError {
  location: string
  message: string
}

/** An event as the collector reads it. */
export interface CollectorEvent {
  id: string
  session_id: string
  user_id?: string
  category: string
  name: string
  data: Record<string, unknown>
  timestamp: string
}

/** What `onError` is told. */
export interface ClientError extends Error {
  /**
   * - `invalid`, `full`, `closed`: this call of `track` queued nothing
   * - `rejected`: the collector will never take these `events`; they have left the queue
   * - `retry`: an attempt failed; the events stay queued, the next one follows in `retryIn` ms
   * - `refused`: the same, but somebody has to mend the key, its allowed origins or the address
   * - `unsent`: `close` left these `events` unsent in memory; storage had no room for them, or there is none
   */
  kind: 'invalid' | 'full' | 'closed' | 'rejected' | 'retry' | 'refused' | 'unsent'
  /** The answer's status; absent when there was no answer. */
  status?: number
  retryIn?: number
  events?: { event: CollectorEvent; errors: FieldError[] }[]
}

/** What is needed of `localStorage`; anything that keeps entries and lists them will do. */
export type StorageLike = Pick<Storage, 'getItem' | 'setItem' | 'removeItem' | 'key' | 'length'>

export interface Options {
  /** The product's address, without `/collector/events`; `''` for the page's own origin. */
  url: string
  /** A key with `collector:write`, for a web page one bound to the page's origin. Visitors can read it. */
  key: string
  /**
   * Names the queue in storage, so that it outlives a change of key; by default the key's public part.
   * The application that events are stored under is the one the key belongs to.
   */
  app?: string
  /** By default one that is made and kept in `sessionStorage`: the same for all pages of a tab. */
  session?: string
  /** For all events; `client.userId` changes it. */
  userId?: string
  /** An event waits at most so many ms for its batch; 2000. */
  flushInterval?: number
  /** Events in a request; 100, at most 1000. A full batch goes out at once. */
  maxBatch?: number
  /** Events waiting, then `track` queues no more; 1000. */
  maxQueue?: number
  /** Keeps the queue across page loads; `localStorage` in a page, else nothing. `null`: memory only. */
  storage?: StorageLike | null
  /** By default `console.warn`. */
  onError?: (error: ClientError) => void
}

export interface TrackOptions {
  /** The collector stores an id once per application; by default a UUIDv7. */
  id?: string
  /** When it occurred; by default now. A string goes as it is: RFC 3339, or `YYYY-MM-DD HH:MM:SS.ffffff` in UTC. */
  timestamp?: Date | number | string
  session?: string
  userId?: string
}

export interface Client {
  readonly session: string
  userId?: string
  /** Events queued, as far as known without asking the other tabs. */
  readonly queued: number
  /**
   * Queues an event and gives its id. It never throws and never waits; what
   * can't be queued is told to `onError`, and gives `undefined`.
   */
  track(category: string, name: string, data?: object, options?: TrackOptions): string | undefined
  /**
   * Sends the queue until it is empty or an attempt fails, without waiting for
   * a back-off (but for Retry-After); gives how many events are still queued.
   */
  flush(): Promise<number>
  /**
   * Ends the client: `track` queues no more, one last flush, no timers left.
   * Gives how many events are still queued; calling it again tries again.
   */
  close(): Promise<number>
}

export function createClient(options: Options): Client
