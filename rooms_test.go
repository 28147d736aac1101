package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"chat/internal/history"
	"chat/internal/metrics"
	"chat/internal/protocol"
	"chat/internal/ratelog"
	"chat/internal/wstest"
)

// Rooms: what is said in one stays in it, and how rooms begin and end.

func TestRoomsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada, bob, carl, dora := chat.join("room=team"), chat.joinV1("room=Team"), chat.join(""), chat.joinV1("room=other")
		if room := bob.hello().Room; *room != "team" {
			t.Errorf("hello names room %q", *room)
		}
		ada.say("in here")
		ada.want("in here")
		bob.want("in here")
		carl.want()
		dora.want()
		carl.say("out there")
		carl.want("out there")
		ada.want()
		bob.want()
		chat.joinV1("room=team").want("in here")
	})
}

// A room stays for ten minutes after its last client left, with what was said in it.
func TestARoomIsKeptForTenMinutes(t *testing.T) {
	for _, name := range []string{"team", lobby} {
		onFakeTime(t, "room "+name, func(t *testing.T) {
			chat := startChat(t)
			visit := func(want ...string) (last int64) {
				t.Helper()
				tab := chat.joinV1("room=" + name)
				tab.want(want...)
				last = tab.hello().ID
				tab.conn.Close()
				chat.wantClients(0)
				return last
			}
			ada := chat.join("room=" + name)
			ada.say("remember me")
			ada.leave()
			chat.wantClients(0)
			time.Sleep(9 * time.Minute)
			visit("remember me")
			time.Sleep(9 * time.Minute)
			last := visit("remember me")
			time.Sleep(11 * time.Minute)
			if again := visit(); again <= last {
				t.Errorf("ids went from %d to %d", last, again)
			}
			if back := chat.joinV1(fmt.Sprintf("room=%s&after=%d", name, last)); !back.hello().Missed {
				t.Error("a client that comes back is not told that it may have missed something")
			}
		})
	}
}

// A room that is opened again repeats no id, even if the clock was set back meanwhile.
// Fake time cannot be set back; instead the room's ids are ahead of the clock.
func TestIDsAreNotRepeatedAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ahead := time.Now().Add(time.Hour).UnixMicro()
		ada, bob := chat.join("room=team"), chat.join("room=other")
		ada.say("hello")
		bob.say("hello")
		synctest.Wait()
		chat.rooms.named["team"].hub.lastID.Store(ahead)
		for _, p := range []*person{ada, bob} { // the room with the smaller ids is closed last
			p.leave()
			time.Sleep(emptyRoomTTL + time.Second)
		}
		chat.wantRooms(1)
		for _, name := range []string{"team", "other"} {
			if id := chat.joinV1("room=" + name).hello().ID; id <= ahead {
				t.Errorf("room %s begins with id %d, want more than %d", name, id, ahead)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) { // nor does one whose history is cleared, as the lobby's is
		ahead := time.Now().Add(time.Hour).UnixMicro()
		h := newHubOn(&localLog{history: history.New(time.Now(), ahead)})
		ctx, stop := context.WithCancel(t.Context())
		go h.run(ctx)
		h.clearHistory <- struct{}{}
		stop()
		<-h.stopped
		if id := h.log.(*localLog).history.LastID(); id <= ahead {
			t.Errorf("begins again with id %d, want more than %d", id, ahead)
		}
	})
}

// A room in which nothing was said is closed with its last client, the lobby never.
func TestUnusedRoomsAreClosedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		for i := range 10 {
			chat.join(fmt.Sprint("room=room", i)).leave()
			chat.join("").leave()
		}
		chat.wantClients(0)
		chat.wantRooms(1)
		ada, bob := chat.join("room=room"), chat.join("room=room")
		ada.say("hello")
		ada.leave()
		bob.want("hello")
		chat.wantRooms(2)
		bob.leave()
		chat.wantRooms(2)
		room := chat.rooms.named["room"]
		chat.rooms.expire("room") // late, of a room of this name that was closed
		chat.wantRooms(2)
		time.Sleep(emptyRoomTTL)
		chat.wantRooms(1)
		<-room.hub.stopped
	})
}

// A client says something in each of two thousand rooms. Those that have been empty
// longest are closed, so that there is always one more. Rooms with clients stay.
func TestTheLongestEmptyRoomMakesPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		ada := chat.join("room=home")
		ada.say("mine")
		ada.want("mine")
		for i := range 2000 {
			p := chat.join(fmt.Sprint("room=room", i))
			p.say("I was here")
			p.want("I was here")
			p.leave()
			time.Sleep(time.Millisecond)
		}
		chat.wantRooms(maxRooms)
		chat.joinV1("room=home").want("mine")
		chat.joinV1("room=room1999").want("I was here")
		chat.joinV1("room=room1100").want("I was here")
		chat.joinV1("room=room0").want()
		ada.wantHere()
	})
}

// When all rooms have clients, there is no other.
func TestTooManyRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		for i := range maxRooms - 1 {
			chat.upgradeTo(fmt.Sprint("room=room", i), protocol.Classic)
		}
		for _, request := range []string{handshake, plainGet} {
			resp, body := chat.ask(strings.Replace(request, "/ws", "/ws?room=more", 1))
			if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "rooms") {
				t.Errorf("%s %v %q", resp.Status, resp.Header, body)
			}
		}
		chat.join("room=room7")
		chat.join("")
		chat.wantClients(maxRooms + 1)
	})
}

// A request that does not become a connection opens no room.
func TestARefusedRequestOpensNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t)
		if resp, _ := chat.ask(strings.Replace(plainGet, "/ws", "/ws?room=team", 1)); resp.StatusCode != 426 || resp.Header.Get("Connection") != "Upgrade" {
			t.Errorf("%s %v", resp.Status, resp.Header)
		}
		if resp, _ := chat.ask(strings.NewReplacer("/ws", "/ws?room=team", wstest.HandshakeKey, "short").Replace(handshake)); resp.StatusCode != 400 {
			t.Errorf("%s", resp.Status)
		}
		chat.wantRooms(1)
	})
}

// The last client leaves as the next comes, and the ten minutes end as a client comes: all
// clients that are counted in at a time are in one hub, which runs.
func TestOneHubForEachName(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	rs := newRooms(ctx, ratelog.New(), metrics.New(), nil, nil)
	var inside sync.Map // from name to the hub that a client holds
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 5000 {
				name := fmt.Sprint("room", i%3)
				hub := rs.enter(name)
				if held, loaded := inside.LoadOrStore(name, hub); loaded && held != hub {
					// The other may have left since: then it must be gone.
					rs.mu.Lock()
					if now := rs.named[name].hub; now != hub {
						t.Error("two hubs of one name")
					}
					rs.mu.Unlock()
					inside.Store(name, hub)
				}
				select {
				case <-hub.stopped:
					t.Error("the hub has stopped")
				default:
				}
				if i%7 == 0 {
					hub.lastID.Store(2)
				}
				rs.leave(name)
				if i%5 == 0 {
					rs.mu.Lock()
					if r := rs.named[name]; r != nil && r.clients == 0 {
						r.emptied = time.Now().Add(-emptyRoomTTL) // as if it had been ten minutes
					}
					rs.mu.Unlock()
					rs.expire(name)
				}
			}
		})
	}
	all.Wait()
	stop()
	rs.running.Wait()
}

// Ten thousand joins, leaves and messages over fifty rooms: each client receives exactly
// what is said in its room while it is there.
func TestRandomRooms(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	synctest.Test(t, func(t *testing.T) {
		chat := startChat(t, unlimited)
		random := rand.New(rand.NewPCG(seed, 0))
		type visitor struct {
			*person
			should []string
		}
		rooms := make([][]*visitor, 50)
		said := 0
		for range 10_000 {
			i := random.IntN(len(rooms))
			room := &rooms[i]
			switch action := random.IntN(10); {
			case len(*room) == 0 || action == 0 && len(*room) < 10:
				*room = append(*room, &visitor{person: chat.join(fmt.Sprint("room=room", i))})
			case action == 1:
				at := random.IntN(len(*room))
				v := (*room)[at]
				v.want(v.should...)
				v.leave()
				synctest.Wait()
				*room = slices.Delete(*room, at, at+1)
			default:
				said++
				line := fmt.Sprint("line ", said)
				(*room)[random.IntN(len(*room))].say(line)
				synctest.Wait()
				for _, v := range *room {
					v.should = append(v.should, line)
				}
			}
		}
		for _, room := range rooms {
			for _, v := range room {
				v.want(v.should...)
			}
		}
		if said < 5000 {
			t.Errorf("only %d lines", said)
		}
	})
}

// A room costs a goroutine, a few channels and maps.
func TestRoomsAreCheap(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	rs := newRooms(ctx, ratelog.New(), metrics.New(), nil, nil)
	kept, _ := memoryOf(func() {
		for i := range maxRooms - 1 {
			rs.enter(fmt.Sprint("room", i))
		}
	})
	if each := kept / (maxRooms - 1); each > 32<<10 {
		t.Errorf("a room costs %d bytes", each)
	}
	for name := range maps.Clone(rs.named) {
		if name != lobby {
			rs.leave(name)
		}
	}
	if len(rs.named) != 1 {
		t.Errorf("%d rooms are left", len(rs.named))
	}
	stop()
	rs.running.Wait()
}

// A room that made place for another is garbage at once, with all that it holds, and its
// timer is stopped.
func TestNothingIsLeftOfARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		rs := newRooms(ctx, ratelog.New(), metrics.New(), nil, nil)
		var hubs []weak.Pointer[Hub]
		var timers []*time.Timer
		for i := range 2 * maxRooms {
			name := fmt.Sprint("room", i)
			hub := rs.enter(name)
			hub.lastID.Store(2)
			hubs = append(hubs, weak.Make(hub))
			rs.leave(name)
			timers = append(timers, rs.named[name].timer)
		}
		synctest.Wait()
		runtime.GC()
		left := 0
		for _, hub := range hubs {
			if hub.Value() != nil {
				left++
			}
		}
		if left > maxRooms {
			t.Errorf("%d of %d hubs are left, want %d", left, len(hubs), maxRooms)
		}
		run := 0
		for _, timer := range timers {
			if timer.Stop() {
				run++
			}
		}
		if run != maxRooms-1 {
			t.Errorf("%d timers run, want one for each room but the lobby", run)
		}
		stop()
		rs.running.Wait()
	})
}
