// Package backlog accounts for the memory of what is queued for clients and not yet written
// to all of them, over all rooms. The fuller it is, the less a client may be behind.
package backlog

import (
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// defaultLimit is the limit in bytes where GOMEMLIMIT is not set.
	defaultLimit = 256 << 20

	// memoryShare is the part of GOMEMLIMIT, where that is set, that is the limit.
	memoryShare = 4

	// maxAge is how long something may stay in a queue while there is little in all.
	maxAge = 30 * time.Second

	// minAge is how long something may stay in a queue in any case.
	minAge = time.Second
)

// A Backlog is a number of bytes and its limit. Any goroutine may use it.
type Backlog struct {
	limit int64
	bytes atomic.Int64
}

// New returns an empty backlog. Its limit is 256 MiB, or a quarter of GOMEMLIMIT where
// that is set.
func New() *Backlog {
	if memory := debug.SetMemoryLimit(-1); memory != math.MaxInt64 {
		return WithLimit(memory / memoryShare)
	}
	return WithLimit(defaultLimit)
}

// WithLimit returns an empty backlog with a limit in bytes.
func WithLimit(limit int64) *Backlog { return &Backlog{limit: limit} }

// Add adds bytes, or with a negative number takes them off.
func (b *Backlog) Add(bytes int64) { b.bytes.Add(bytes) }

// Bytes returns how many bytes there are.
func (b *Backlog) Bytes() int64 { return b.bytes.Load() }

// IsFull reports whether there are more bytes than the limit.
func (b *Backlog) IsFull() bool { return b.bytes.Load() > b.limit }

// MaxAge returns how long something may stay in a queue now: 30 seconds up to half the
// limit, then less and less, and one second from the limit on.
func (b *Backlog) MaxAge() time.Duration {
	left := 1 - float64(b.bytes.Load())/float64(b.limit)
	return max(minAge, min(maxAge, time.Duration(2*left*float64(maxAge))))
}
