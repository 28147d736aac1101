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
