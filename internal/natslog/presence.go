package natslog

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chat/internal/presence"
	"chat/internal/protocol"
)

const (
	// presenceSubject is where each server says who is in which room on it.
	presenceSubject = "chat-here"

	// presenceInterval is how often it says so if nothing changes.
	presenceInterval = 10 * time.Second

	// forgetAfter is how long a server may be silent before it is forgotten.
	forgetAfter = 3 * presenceInterval

	// maxPresence is how many bytes a server uses for the names of users, at most: a message
	// to NATS may have 1 MiB. The largest rooms are told by their number alone.
	maxPresence = 512 << 10

	// maxCount is how many users a server may have in a room, at most: more than it may have
	// connections.
	maxCount = 1 << 24

	// maxUserID is the length in bytes of a user id, at most.
	maxUserID = 64
)

// A presenceMessage says who is in which room on a server.
type presenceMessage struct {
	Server string                     `json:"server"`
	Rooms  map[string]presence.Roster `json:"rooms"` // null from a server that stops
}

// A localPresence is who is in which room on this server.
type localPresence struct {
	server  string
	changed chan struct{} // receives when it changed

	mu    sync.Mutex
	rooms map[string]presence.Roster
}

func newLocalPresence() *localPresence {
	return &localPresence{server: newID(), changed: make(chan struct{}, 1), rooms: make(map[string]presence.Roster)}
}

// set sets who is in a room.
func (h *localPresence) set(room string, c presence.Roster) {
	h.mu.Lock()
	if c.Count == 0 {
		delete(h.rooms, room)
	} else {
		h.rooms[room] = c
	}
	h.mu.Unlock()
	h.touch()
}

// touch makes publishPresence publish soon.
func (h *localPresence) touch() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// encode returns the message that says who is here.
func (h *localPresence) encode() []byte {
	h.mu.Lock()
	rooms := maps.Clone(h.rooms)
	h.mu.Unlock()
	bySize := slices.SortedFunc(maps.Keys(rooms), func(a, b string) int {
		return cmp.Or(cmp.Compare(rooms[a].Count, rooms[b].Count), cmp.Compare(a, b))
	})
	size := 0
	for _, room := range bySize {
		c := rooms[room]
		for userID, name := range c.Names {
			size += len(userID) + 6*len(name) + 8 // JSON may need six bytes for one
		}
		if size > maxPresence {
			rooms[room] = presence.Roster{Count: c.Count}
		}
	}
	text, _ := json.Marshal(presenceMessage{h.server, rooms}) // it can be encoded
	return text
}

// A remotePresence is who is in which room on other servers.
type remotePresence struct {
	version atomic.Uint64 // grows with each change

	mu      sync.Mutex
	servers map[string]serverPresence
}

// A serverPresence is the last presenceMessage of a server.
type serverPresence struct {
	rooms map[string]presence.Roster
	heard time.Time
}

func newRemotePresence() *remotePresence {
	e := &remotePresence{servers: make(map[string]serverPresence)}
	e.version.Store(1)
	return e
}

// set sets who is on a server, nil if it says goodbye. It reports whether the server was not
// known.
func (e *remotePresence) set(server string, rooms map[string]presence.Roster, now time.Time) (isNew bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, known := e.servers[server]
	if rooms == nil {
		delete(e.servers, server)
	} else {
		e.servers[server] = serverPresence{rooms, now}
	}
	e.version.Add(1)
	return !known && rooms != nil
}

// forget forgets servers that were silent for too long.
func (e *remotePresence) forget(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for server, s := range e.servers {
		if now.Sub(s.heard) >= forgetAfter {
			delete(e.servers, server)
			e.version.Add(1)
		}
	}
}

// in returns who is in a room, on each other server where somebody is, in the order of the
// servers' ids: so it is the same until somebody comes or goes.
func (e *remotePresence) in(room string) (rosters []presence.Roster) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, server := range slices.Sorted(maps.Keys(e.servers)) {
		if c, ok := e.servers[server].rooms[room]; ok {
			rosters = append(rosters, c)
		}
	}
	return rosters
}

// publishPresence tells the other servers who is here, after a change and every presenceInterval,
// but not more than once a second.
func (s *Stream) publishPresence() {
	heartbeat := time.NewTicker(presenceInterval)
	defer heartbeat.Stop()
	s.local.touch() // so that the others tell this server
	for {
		select {
		case <-s.local.changed:
		case <-heartbeat.C:
		case <-s.ctx.Done():
			return
		}
		s.remote.forget(time.Now())
		if s.engine.Publish(presenceSubject, s.local.encode()) != nil {
			s.local.touch() // there is no connection now
		}
		if !s.sleep(presence.Interval) {
			return
		}
	}
}

// goodbye tells the other servers that nobody is here any more.
func (s *Stream) goodbye() {
	text, _ := json.Marshal(presenceMessage{Server: s.local.server}) // it can be encoded
	s.engine.Publish(presenceSubject, text)                          // an error says that nobody hears it
}

// receivePresence notes what another server published.
func (s *Stream) receivePresence(m *Message) {
	var said presenceMessage
	if json.Unmarshal(m.Data, &said) != nil || said.Server == s.local.server {
		return
	}
	for room, c := range said.Rooms {
		if !validate(c) {
			delete(said.Rooms, room)
		}
	}
	if s.remote.set(said.Server, said.Rooms, time.Now()) {
		s.local.touch() // it does not know who is here
	}
}

// validate cleans the names in a roster. It reports false if no server can have said who is in
// it: the notices made of it would be too long.
func validate(c presence.Roster) bool {
	if c.Count < 1 || c.Count > maxCount || len(c.Names) > presence.MaxNames {
		return false
	}
	for userID, name := range c.Names {
		if len(userID) > maxUserID || strings.Trim(userID, "0123456789abcdef") != "" {
			return false
		}
		c.Names[userID] = protocol.CleanName(name)
	}
	return true
}
