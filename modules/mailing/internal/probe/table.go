package probe

import "math/bits"

// slot is a place in a table; its zero value is a free one.
type slot interface {
	key() (key uint64, taken bool)
}

// table is a hash table of slots, with open addressing. It takes half the memory
// of a map, and what is in it stays in it. The zero value is an empty one.
type table[S slot] struct {
	slots []S
	n     int
}

// home is where the search for a key begins. The low bits of the hash choose the
// shard, so the high ones are taken.
func (t *table[S]) home(key uint64) int {
	at, _ := bits.Mul64(mix(key), uint64(len(t.slots)))
	return int(at)
}

// find gives the slot of a key, or nil. It is good until the next add.
func (t *table[S]) find(key uint64) *S {
	if t.n == 0 {
		return nil
	}
	for i := t.home(key); ; i++ { // there is always a free slot
		if i == len(t.slots) {
			i = 0
		}
		k, taken := t.slots[i].key()
		if !taken {
			return nil
		}
		if k == key {
			return &t.slots[i]
		}
	}
}

// add puts in a slot whose key is not there.
func (t *table[S]) add(s S) *S {
	if 5*(t.n+1) > 4*len(t.slots) {
		old := t.slots
		t.slots, t.n = make([]S, 16+len(old)*3/2), 0
		for _, o := range old {
			if _, taken := o.key(); taken {
				t.add(o)
			}
		}
	}
	key, _ := s.key()
	for i := t.home(key); ; i++ {
		if i == len(t.slots) {
			i = 0
		}
		if _, taken := t.slots[i].key(); !taken {
			t.slots[i] = s
			t.n++
			return &t.slots[i]
		}
	}
}
