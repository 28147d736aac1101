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
	if o := ms.Online(); o.Count != 2 || !slices.Equal(o.Names, []string{"Ada L.", "guest"}) {
		t.Errorf("%+v", o)
	}
	ms.Leave("1")
	ms.Leave("2")
	if o := ms.Online(); o.Count != 1 || !slices.Equal(o.Names, []string{"Ada L."}) {
		t.Errorf("%+v", o)
	}
	ms.Leave("1")
	if o := ms.Online(); o.Count != 0 || o.Names != nil {
		t.Errorf("%+v", o)
	}
}

// Names are given up to MaxNames members, and not for one more.
func TestMaxNames(t *testing.T) {
	ms := New(begin)
	for i := range MaxNames {
		ms.Join(fmt.Sprint(i), "")
	}
	if o := ms.Online(); o.Count != MaxNames || len(o.Names) != MaxNames {
		t.Errorf("%d members, %d names", o.Count, len(o.Names))
	}
	ms.Join("one more", "")
	if o := ms.Online(); o.Count != MaxNames+1 || o.Names != nil {
		t.Errorf("%d members, %d names", o.Count, len(o.Names))
	}
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
