// What users write, checked against client.d.ts. client.js itself is checked
// against it by its @param and @returns.
import { createClient, type Client, type ClientError, type Options } from '../../client.js'

const options: Options = {
  url: 'https://collect.example.com',
  key: 'sb_web_secret',
  app: 'web',
  session: 's',
  userId: 'u',
  flushInterval: 1000,
  maxBatch: 100,
  maxQueue: 1000,
  storage: localStorage,
  onError(error: ClientError) {
    if (error.kind === 'rejected') for (const { event, errors } of error.events ?? []) console.log(event.id, errors[0]?.message.length)
    // @ts-expect-error no such kind
    if (error.kind === 'unknown') console.log(error.status?.toFixed())
  }
}
const client: Client = createClient(options)
createClient({ url: '', key: 'k', storage: null, onError: console.warn })

interface Pageview { path: string }
const view: Pageview = { path: '/' }
const id: string | undefined = client.track('page interaction', 'pageview', view)
client.track('c', 'n')
client.track('c', 'n', {}, { id, timestamp: new Date(), session: 's', userId: 'u' })
client.track('c', 'n', {}, { timestamp: '2021-01-01 09:15:27.243860' })
client.userId = 'u2'
const left: number = (await client.flush()) + (await client.close()) + client.queued
console.log(left, client.session)

// @ts-expect-error url and key are needed
createClient({ url: '' })
// @ts-expect-error no such option
createClient({ url: '', key: '', batch: 1 })
// @ts-expect-error data is an object
client.track('c', 'n', 'text')
// @ts-expect-error a name is needed
client.track('c')
// @ts-expect-error the session is made once
client.session = 's'
