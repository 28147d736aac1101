// Package presence knows who is in a room, and when its clients are to be told. A
// person with several connections counts once.
package presence

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"chat/internal/protocol"
)

const (
	// MaxNames is how many members a notice lists; of more it gives the number alone.
	MaxNames = 50

	// Interval is the least time between two notices.
	Interval = time.Second

	// LargeRoom is the number of members above which LargeRoomInterval holds.
	LargeRoom = 1000

	// LargeRoomInterval is the least time between two notices in a large room, so that
	// ten thousand people who arrive do not cause as many notices to as many.
	LargeRoomInterval = 10 * time.Second

	// Heartbeat is the most time between two notices, even if nothing changes, so that a
	// page can tell a dead connection.
	Heartbeat = 30 * time.Second
)

// Members are the people in a room. One goroutine may use them at a time.
type Members struct {
	byUserID  map[string]*member
	changed   bool      // since the last notice
	announced time.Time // the last notice
}

// A member is a person who is here.
type member struct {
	name        string // as given by the last connection; "" for none
	connections int    // never 0
}

// New returns an empty room, whose last notice was now.
func New(now time.Time) *Members {
	return &Members{byUserID: make(map[string]*member), announced: now}
}

// Join counts a connection of a user in. The name replaces that of earlier ones.
func (ms *Members) Join(userID, name string) {
	m := ms.byUserID[userID]
	if m == nil {
		m = new(member)
		ms.byUserID[userID] = m
	}
	m.name = name
	m.connections++
	ms.changed = true
}

// Leave counts a connection of a user out that was counted in.
func (ms *Members) Leave(userID string) {
	if m := ms.byUserID[userID]; m.connections > 1 {
		m.connections--
	} else {
		delete(ms.byUserID, userID)
	}
	ms.changed = true
}

// Online returns the notice that says who is here.
func (ms *Members) Online() protocol.Online {
	o := protocol.Online{Count: len(ms.byUserID)}
	if o.Count > MaxNames {
		return o
	}
	name := func(userID string) string { return protocol.ShownName(ms.byUserID[userID].name) }
	o.UserIDs = slices.SortedFunc(maps.Keys(ms.byUserID), func(a, b string) int {
		return cmp.Or(cmp.Compare(name(a), name(b)), cmp.Compare(a, b))
	})
	for _, userID := range o.UserIDs {
		o.Names = append(o.Names, name(userID))
	}
	return o
}

// Due reports whether a notice is to be sent now: after a change, but not too soon after
// the last notice, or when that is long ago. If so, it counts as sent.
func (ms *Members) Due(now time.Time) bool {
	interval := Interval
	if len(ms.byUserID) > LargeRoom {
		interval = LargeRoomInterval
	}
	since := now.Sub(ms.announced)
	due := ms.changed && since >= interval || since >= Heartbeat
	if due {
		ms.changed, ms.announced = false, now
	}
	return due
}
