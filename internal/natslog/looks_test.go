package natslog

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// The stream ends below a number if as many looks running as are asked for show it, all of
// which began since.
func TestEndsBelow(t *testing.T) {
	for _, stream := range []struct {
		ends  []uint64 // as the looks 1, 2, 3 and so on show them
		since int64
		want  bool // for 15
	}{
		{[]uint64{10, 10}, 0, false},
		{[]uint64{10, 10, 10}, 0, true},
		{[]uint64{10, 10, 14}, 0, true},
		{[]uint64{10, 10, 10}, 1, false},
		{[]uint64{10, 10, 10, 10}, 1, true},
		{[]uint64{10, 10, 15}, 0, false},
		{[]uint64{10, 15, 10}, 0, false},
		{[]uint64{15, 10, 10}, 0, false},
		{[]uint64{15, 10, 10, 10}, 0, true},
		{[]uint64{10, 15, 10, 10}, 0, false},
	} {
		var ls looks
		for _, end := range stream.ends {
			ls.note(ls.begin(), &nats.StreamInfo{State: nats.StreamState{LastSeq: end}})
		}
		if ls.endsBelow(15, stream.since) != stream.want {
			t.Errorf("%+v", stream)
		}
	}
}
