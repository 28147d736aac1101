// Package budget limits what an address may do over all its connections, and over those
// that it had before: how many messages it sends, and how fast it makes rooms. Both are
// token buckets.
package budget

import (
	"errors"
	"net/netip"
	"sync"
	"time"
)

const (
	// lookEvery is how often a connection that waits is asked whether its peer has left.
	lookEvery = time.Second

	// roomInterval is the time between two rooms that an address makes, in the long run.
	roomInterval = time.Second / 10

	// roomBurst is the time for which an address saves up rooms: it may make 100 at once.
	roomBurst = 10 * time.Second

	// maxRoomWait is how long a request that makes a room waits, at most.
	maxRoomWait = time.Second

	// sweepEvery is how often addresses are forgotten that have all their budget again.
	sweepEvery = time.Second
)

// ErrStopped is what Wait returns when it was told to stop.
var ErrStopped = errors.New("stopped")

// ErrLeft is what Wait returns when the peer has left.
var ErrLeft = errors.New("the peer has left")

// Budgets are the budgets of all addresses. Its methods, and those of its budgets, may be
// called from any goroutine.
type Budgets struct {
	interval time.Duration // between two messages, in the long run; 0 for no limit at all
	burst    time.Duration // for which an address saves up messages

	mu     sync.Mutex
	byAddr map[netip.Prefix]*Budget
	swept  time.Time
}

// New returns the budgets of addresses that may each send one message in an interval, and
// at once as many as in a burst. An interval of 0 turns all limits off.
func New(interval, burst time.Duration) *Budgets {
	return &Budgets{interval: interval, burst: burst, byAddr: make(map[netip.Prefix]*Budget), swept: time.Now()}
}

// A Budget is that of one address.
type Budget struct {
	all  *Budgets
	turn chan struct{} // holds a token while somebody waits for the next message's time

	// Under all.mu.
	users   int       // connections and requests that hold the budget
	waiting int       // of these, in Wait
	due     time.Time // when the next message may come, burst aside
	roomDue time.Time // when the next room may be made, burst aside
}

// Of returns the budget of an address: of an IPv4 address alone, of an IPv6 address with
// its /64, which a single machine may have. The caller calls Release when it is done.
func (bs *Budgets) Of(addr netip.Addr) *Budget {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // of no address at all it is the zero Prefix: one budget for all such
	bs.mu.Lock()
	defer bs.mu.Unlock()
	now := time.Now()
	if now.Sub(bs.swept) >= sweepEvery {
		bs.sweep(now)
	}
	b := bs.byAddr[prefix]
	if b == nil {
		b = &Budget{all: bs, turn: make(chan struct{}, 1)}
		bs.byAddr[prefix] = b
	}
	b.users++
	return b
}

// sweep forgets the addresses that nobody uses and that would be new as they are. The lock
// must be held.
func (bs *Budgets) sweep(now time.Time) {
	bs.swept = now
	for prefix, b := range bs.byAddr {
		if b.users == 0 && now.Sub(b.due) >= bs.burst && now.Sub(b.roomDue) >= roomBurst {
			delete(bs.byAddr, prefix)
		}
	}
}

// Release gives the budget back. What was used of it stays used.
func (b *Budget) Release() {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	b.users--
}

// Throttled returns how many addresses have connections that wait.
func (bs *Budgets) Throttled() (addresses int) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	for _, b := range bs.byAddr {
		if b.waiting > 0 {
			addresses++
		}
	}
	return addresses
}

// take uses the budget for so many messages if they may come now. Else it returns how long
// until then.
func (b *Budget) take(messages int) (wait time.Duration) {
	now := time.Now()
	due := b.due
	if earliest := now.Add(-b.all.burst); due.Before(earliest) {
		due = earliest
	}
	due = due.Add(time.Duration(messages) * b.all.interval)
	if wait = due.Sub(now); wait > 0 {
		return wait
	}
	b.due = due
	return 0
}

// Take uses the budget for so many messages, or for what is as much work, and reports
// whether that was possible at once. Otherwise nothing was used, and the caller may call
// Wait.
func (b *Budget) Take(messages int) bool {
	if b.all.interval == 0 {
		return true
	}
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	return b.waiting == 0 && b.take(messages) <= 0 // those that wait come first
}

// Wait uses the budget for a message when that is possible: connections of one address
// take turns. It returns ErrStopped when stop is closed, and ErrLeft when left, which it
// asks at once and then once a second, reports that the peer has left; then nothing was
// used.
func (b *Budget) Wait(stop <-chan struct{}, left func() bool) error {
	if left() {
		return ErrLeft
	}
	b.all.mu.Lock()
	b.waiting++
	b.all.mu.Unlock()
	defer func() {
		b.all.mu.Lock()
		b.waiting--
		b.all.mu.Unlock()
	}()

	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var next <-chan time.Time // when it is our turn: the time of the message
	turn := b.turn
	for {
		select {
		case turn <- struct{}{}:
			turn = nil
			defer func() { <-b.turn }()
		case <-next:
		case <-stop:
			return ErrStopped
		case <-look.C:
			if left() {
				return ErrLeft
			}
			continue
		}
		b.all.mu.Lock()
		wait := b.take(1)
		b.all.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		next = time.After(wait)
	}
}

// Room notes that the address makes a room, and returns how long it is to wait before
// that: never more than a second.
func (b *Budget) Room() (wait time.Duration) {
	if b.all.interval == 0 {
		return 0
	}
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	now := time.Now()
	if earliest := now.Add(-roomBurst); b.roomDue.Before(earliest) {
		b.roomDue = earliest
	}
	b.roomDue = b.roomDue.Add(roomInterval)
	if latest := now.Add(maxRoomWait); b.roomDue.After(latest) {
		b.roomDue = latest
	}
	return max(0, b.roomDue.Sub(now))
}
