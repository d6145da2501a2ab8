package seal

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	cacheAge     = time.Minute // an entry older than this is read again
	cacheKeys    = 10_000      // about 1 KB each, most of it the expanded AES key
	cacheAliases = 20_000      // about 0.2 KB each
)

// cache holds opened keys and resolved aliases for at most cacheAge. One lock
// is taken per batch, not per element.
type cache struct {
	mu      sync.Mutex
	gen     uint64 // grows at every drop, so that a read begun before it is not kept
	keys    *simplelru.LRU[Subject, keyEntry]
	aliases *simplelru.LRU[Index, aliasEntry]
}

type keyEntry struct {
	cipher *Cipher // nil: erased
	loaded time.Time
}

type aliasEntry struct {
	subject Subject
	loaded  time.Time
}

func newCache() (*cache, error) {
	keys, err := simplelru.NewLRU[Subject, keyEntry](cacheKeys, nil)
	if err != nil {
		return nil, err
	}
	aliases, err := simplelru.NewLRU[Index, aliasEntry](cacheAliases, nil)
	return &cache{keys: keys, aliases: aliases}, err
}

func fresh(loaded, now time.Time) bool {
	age := now.Sub(loaded)
	return age >= 0 && age < cacheAge
}

// key tells what is cached of a subject. The caller holds mu.
func (c *cache) key(s Subject, now time.Time) (*Cipher, bool) {
	e, ok := c.keys.Get(s)
	if !ok {
		return nil, false
	}
	if !fresh(e.loaded, now) {
		c.keys.Remove(s)
		return nil, false
	}
	return e.cipher, true
}

// alias tells whom an alias means; it is a miss unless the subject's key is
// cached as well. The caller holds mu.
func (c *cache) alias(x Index, now time.Time) (person, bool) {
	e, ok := c.aliases.Get(x)
	if !ok {
		return person{}, false
	}
	if !fresh(e.loaded, now) {
		c.aliases.Remove(x)
		return person{}, false
	}
	cipher, ok := c.key(e.subject, now)
	return person{e.subject, cipher}, ok
}

// generation is taken before a read whose result fill may keep.
func (c *cache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

// fill keeps what was read, unless something was dropped since the read began.
func (c *cache) fill(gen uint64, now time.Time, keys map[Subject]*Cipher, aliases map[Index]person) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.gen {
		return
	}
	for s, cipher := range keys {
		c.keys.Add(s, keyEntry{cipher, now})
	}
	for x, p := range aliases {
		c.keys.Add(p.subject, keyEntry{p.cipher, now})
		c.aliases.Add(x, aliasEntry{p.subject, now})
	}
}

// drop forgets subjects. Aliases that point to them turn into misses with them.
func (c *cache) drop(subjects ...Subject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for _, s := range subjects {
		c.keys.Remove(s)
	}
}

// age takes out what is too old, so that no key stays in memory unused.
func (c *cache) age(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.keys.Keys() {
		if e, ok := c.keys.Peek(s); ok && !fresh(e.loaded, now) {
			c.keys.Remove(s)
		}
	}
	for _, x := range c.aliases.Keys() {
		if e, ok := c.aliases.Peek(x); ok && !fresh(e.loaded, now) {
			c.aliases.Remove(x)
		}
	}
}
