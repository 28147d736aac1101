// Package presence knows who is in a room, and when its clients are to be told. A
// person with several connections to one server counts once.
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
	byUserID     map[string]*member
	changed      bool      // since the last notice
	noticedAt    time.Time // the last notice
	remote       []Roster  // those on other servers
	localChanged bool      // somebody came or went since the last Local
}

// A Roster is the members of a room on one server.
type Roster struct {
	Count int               `json:"count"`
	Names map[string]string `json:"names,omitempty"` // by user id, "" for none; nil when they are too many to name
}

// A member is a person who is here.
type member struct {
	name        string // as given by the last connection; "" for none
	connections int    // never 0
}

// New returns an empty room, whose last notice was now.
func New(now time.Time) *Members {
	return &Members{byUserID: make(map[string]*member), noticedAt: now}
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
	ms.changed, ms.localChanged = true, true
}

// Leave counts a connection of a user out that was counted in.
func (ms *Members) Leave(userID string) {
	if m := ms.byUserID[userID]; m.connections > 1 {
		m.connections--
	} else {
		delete(ms.byUserID, userID)
	}
	ms.changed, ms.localChanged = true, true
}

// Local returns who is in the room on this server, and whether somebody came or went since
// the last call.
func (ms *Members) Local() (c Roster, moved bool) {
	moved, ms.localChanged = ms.localChanged, false
	if !moved {
		return c, false
	}
	c.Count = len(ms.byUserID)
	if c.Count <= MaxNames {
		c.Names = make(map[string]string, c.Count)
		for userID, m := range ms.byUserID {
			c.Names[userID] = m.name
		}
	}
	return c, true
}

// SetRemote sets who is in the room on other servers.
func (ms *Members) SetRemote(rosters []Roster) {
	ms.changed = ms.changed || !slices.EqualFunc(rosters, ms.remote, Roster.equal)
	ms.remote = rosters
}

func (c Roster) equal(other Roster) bool {
	return c.Count == other.Count && maps.Equal(c.Names, other.Names)
}

// names returns the names of all members by user id, nil when they are too many to name.
func (ms *Members) names() map[string]string {
	if len(ms.byUserID) > MaxNames {
		return nil
	}
	names := make(map[string]string, len(ms.byUserID))
	for _, c := range ms.remote {
		if len(c.Names) < c.Count {
			return nil
		}
		maps.Copy(names, c.Names)
	}
	for userID, m := range ms.byUserID {
		names[userID] = m.name
	}
	if len(names) > MaxNames {
		return nil
	}
	return names
}

// count returns the sum of the members on all servers. Somebody on several servers counts more
// than once.
func (ms *Members) count() int {
	count := len(ms.byUserID)
	for _, c := range ms.remote {
		count += c.Count
	}
	return count
}

// Online returns the notice that says who is here.
func (ms *Members) Online() protocol.Online {
	names := ms.names()
	if names == nil {
		return protocol.Online{Count: ms.count()}
	}
	shown := func(userID string) string { return protocol.ShownName(names[userID]) }
	o := protocol.Online{Count: len(names)}
	o.UserIDs = slices.SortedFunc(maps.Keys(names), func(a, b string) int {
		return cmp.Or(cmp.Compare(shown(a), shown(b)), cmp.Compare(a, b))
	})
	for _, userID := range o.UserIDs {
		o.Names = append(o.Names, shown(userID))
	}
	return o
}

// Due reports whether a notice is to be sent now: after a change, but not too soon after
// the last notice, or when that is long ago. If so, it counts as sent.
func (ms *Members) Due(now time.Time) bool {
	interval := Interval
	if ms.count() > LargeRoom {
		interval = LargeRoomInterval
	}
	since := now.Sub(ms.noticedAt)
	due := ms.changed && since >= interval || since >= Heartbeat
	if due {
		ms.changed, ms.noticedAt = false, now
	}
	return due
}
