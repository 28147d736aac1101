package presence

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var begin = time.UnixMicro(1_000_000_000_000_000)

func TestMembersCountOnce(t *testing.T) {
	ms := New(begin)
	ms.Join("1", "Ada")
	ms.Join("1", "Ada L.") // another connection
	ms.Join("2", "")
	wantOnline(t, ms, 2, "Ada L.", "1", "guest", "2")
	ms.Leave("1")
	ms.Leave("2")
	wantOnline(t, ms, 1, "Ada L.", "1")
	ms.Leave("1")
	wantOnline(t, ms, 0)
}

// Members are sorted by name, and those of one name by user id.
func TestMembersAreSorted(t *testing.T) {
	ms := New(begin)
	for i, name := range []string{"Bob", "", "Ada", "bob", "Ada", "Ada"} {
		ms.Join(fmt.Sprint(9-i), name)
	}
	wantOnline(t, ms, 6, "Ada", "4", "Ada", "5", "Ada", "7", "Bob", "9", "bob", "6", "guest", "8")
}

// Those on other servers are among them; somebody who is on several counts once, while all
// can be named.
func TestMembersElsewhere(t *testing.T) {
	ms := New(begin)
	ms.Join("1", "Ada")
	ms.SetRemote([]Roster{{2, map[string]string{"3": "", "1": "Ada L."}}, {1, map[string]string{"2": "Ada"}}})
	wantOnline(t, ms, 3, "Ada", "1", "Ada", "2", "guest", "3")
	ms.SetRemote([]Roster{{2, nil}, {1, map[string]string{"1": "Ada"}}})
	wantOnline(t, ms, 4)
	ms.SetRemote(nil)
	wantOnline(t, ms, 1, "Ada", "1")
}

// wantOnline fails the test unless so many members are here, with these names and user ids.
func wantOnline(t *testing.T, ms *Members, count int, namesAndIDs ...string) {
	t.Helper()
	o := ms.Online()
	var got []string
	for i := range min(len(o.Names), len(o.UserIDs)) {
		got = append(got, o.Names[i], o.UserIDs[i])
	}
	if o.Count != count || len(o.Names) != len(o.UserIDs) || !slices.Equal(got, namesAndIDs) {
		t.Errorf("%+v, want %d: %q", o, count, namesAndIDs)
	}
}

// Names are given up to MaxNames members, and not for one more.
func TestMaxNames(t *testing.T) {
	ms := New(begin)
	for i := range MaxNames {
		ms.Join(fmt.Sprint(i), "")
	}
	if o := ms.Online(); o.Count != MaxNames || len(o.Names) != MaxNames || len(o.UserIDs) != MaxNames {
		t.Errorf("%d members, %d names, %d user ids", o.Count, len(o.Names), len(o.UserIDs))
	}
	ms.Join("one more", "")
	wantOnline(t, ms, MaxNames+1)
}

// A change is told after the interval, once; nothing new after the heartbeat.
func TestDue(t *testing.T) {
	for _, room := range []struct {
		members  int
		interval time.Duration
	}{
		{1, Interval},
		{LargeRoom, Interval},
		{LargeRoom + 1, LargeRoomInterval},
	} {
		ms := New(begin)
		for i := range room.members {
			ms.Join(fmt.Sprint(i), "")
		}
		now := begin
		wait := func(d time.Duration, want bool) {
			t.Helper()
			now = now.Add(d)
			if ms.Due(now) != want {
				t.Errorf("%d members: due %v after %v", room.members, !want, now.Sub(begin))
			}
		}
		wait(room.interval-1, false)
		wait(1, true)
		wait(2*room.interval, false) // unchanged
		ms.Join("another", "")
		ms.Leave("another")
		wait(0, true)
		wait(Heartbeat-1, false)
		wait(1, true)
	}
}

// Members on other servers are told, too: each user once while they are few enough to be
// named, else the servers' numbers together.
func TestElsewhere(t *testing.T) {
	many := func(n int) (c Roster) {
		c = Roster{Count: n}
		if n <= MaxNames {
			c.Names = make(map[string]string)
			for i := range n {
				c.Names[fmt.Sprint("many", i)] = "Many"
			}
		}
		return c
	}
	ada := Roster{1, map[string]string{"ada": "Ada of old"}}
	for _, room := range []struct {
		elsewhere []Roster
		count     int
		names     int
	}{
		{nil, 2, 2},
		{[]Roster{ada}, 2, 2},
		{[]Roster{ada, many(10)}, 12, 12},
		{[]Roster{many(10), many(10)}, 12, 12},
		{[]Roster{many(48)}, 50, 50},
		{[]Roster{many(49)}, 51, 0},
		{[]Roster{many(40), many(51)}, 93, 0},
		{[]Roster{{Count: 3}}, 5, 0}, // it had no room for the names
	} {
		ms := New(begin)
		ms.Join("ada", "Ada")
		ms.Join("bob", "")
		ms.SetRemote(room.elsewhere)
		o := ms.Online()
		if o.Count != room.count || len(o.Names) != room.names || room.names > 0 && o.Names[0] != "Ada" {
			t.Errorf("%v: %+v", room.elsewhere, o)
		}
	}
}

// A change elsewhere is told, and a change here is told elsewhere.
func TestChangesElsewhere(t *testing.T) {
	ms := New(begin)
	if _, moved := ms.Local(); moved {
		t.Error("somebody came to an empty room")
	}
	ms.Join("ada", "Ada")
	if c, moved := ms.Local(); !moved || c.Count != 1 || c.Names["ada"] != "Ada" {
		t.Errorf("%v, %v", c, moved)
	}
	if _, moved := ms.Local(); moved {
		t.Error("somebody came twice")
	}
	ms.Due(begin.Add(Interval))
	ms.SetRemote([]Roster{{Count: 1, Names: map[string]string{"bob": "Bob"}}})
	if !ms.Due(begin.Add(2 * Interval)) {
		t.Error("a change elsewhere is not told")
	}
	ms.SetRemote([]Roster{{Count: 1, Names: map[string]string{"bob": "Bob"}}})
	if ms.Due(begin.Add(3 * Interval)) {
		t.Error("the same is told again")
	}
	ms.SetRemote([]Roster{{Count: MaxNames + 1}})
	ms.Due(begin.Add(4 * Interval))
	ms.SetRemote([]Roster{{Count: MaxNames + 2}})
	if !ms.Due(begin.Add(5 * Interval)) {
		t.Error("another number elsewhere is not told")
	}
	ms.SetRemote([]Roster{{Count: LargeRoom}})
	if ms.Due(begin.Add(6 * Interval)) {
		t.Error("a large room is told at once")
	}
	for i := range MaxNames {
		ms.Join(fmt.Sprint(i), "")
	}
	if c, _ := ms.Local(); c.Count != MaxNames+1 || c.Names != nil {
		t.Errorf("%d, %d names", c.Count, len(c.Names))
	}
}
