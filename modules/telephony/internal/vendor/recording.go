package vendor

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync"
)

const (
	sampleRate = 8000 // per second
	sampleSize = 2    // bytes
)

// tone is a WAV file: a second of a quiet 440 Hz tone, 16-bit PCM, mono.
var tone = sync.OnceValue(func() []byte {
	const size = sampleRate * sampleSize
	var b bytes.Buffer
	b.WriteString("RIFF")
	put := func(numbers ...any) {
		for _, n := range numbers {
			_ = binary.Write(&b, binary.LittleEndian, n) // into memory
		}
	}
	put(uint32(36 + size))
	b.WriteString("WAVEfmt ")
	put(uint32(16), uint16(1), uint16(1), uint32(sampleRate), uint32(sampleRate*sampleSize), uint16(sampleSize), uint16(8*sampleSize))
	b.WriteString("data")
	put(uint32(size))
	for i := range sampleRate {
		put(int16(1000 * math.Sin(2*math.Pi*440*float64(i)/sampleRate)))
	}
	return b.Bytes()
})
