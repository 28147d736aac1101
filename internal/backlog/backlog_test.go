package backlog

import (
	"runtime/debug"
	"testing"
	"time"
)

func TestMaxAge(t *testing.T) {
	b := WithLimit(1000)
	for bytes, want := range map[int64]time.Duration{
		0: 30 * time.Second, 500: 30 * time.Second, 750: 15 * time.Second, 900: 6 * time.Second,
		999: time.Second, 1000: time.Second, 5000: time.Second,
	} {
		b.Add(bytes - b.Bytes())
		if age := b.MaxAge().Round(time.Millisecond); age != want || b.IsFull() != (bytes > 1000) {
			t.Errorf("with %d bytes: %v, full %v, want %v", bytes, age, b.IsFull(), want)
		}
	}
}

func TestLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	debug.SetMemoryLimit(400 << 20)
	if b := New(); b.limit != 100<<20 {
		t.Errorf("with a memory limit of 400 MiB it is %d", b.limit)
	}
}
