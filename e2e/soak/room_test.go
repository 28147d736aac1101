package main

import (
	"fmt"
	"hash/maphash"
	"testing"
)

// What somebody on the classic wire has heard is compared with what the others have.
func TestCheckClassic(t *testing.T) {
	// A saying is a line and when it was said, and heard.
	type saying struct {
		text string
		at   int64
	}
	order := []saying{{"a", 10}, {"b", 20}, {"c", 30}, {"d", 40}, {"b", 50}, {"x", 60}} // as heard on chat.v1
	for _, test := range []struct {
		what  string
		heard []saying
		end   int64
		gaps  int
	}{
		{"all", []saying{{"a", 11}, {"b", 21}, {"c", 31}, {"d", 41}, {"b", 51}, {"x", 61}}, 0, 0},
		{"from somewhere to somewhere", []saying{{"c", 31}, {"d", 41}, {"b", 51}}, 0, 0},
		{"the second of two sayings first", []saying{{"b", 51}, {"x", 61}}, 0, 0},
		{"not c", []saying{{"a", 11}, {"b", 21}, {"d", 41}}, 0, 1},
		{"c twice", []saying{{"b", 21}, {"c", 31}, {"c", 32}, {"d", 41}}, 0, 1},
		{"c too late", []saying{{"b", 21}, {"d", 41}, {"c", 42}}, 0, 2},
		{"x, when only this one heard it; others when it was said again", []saying{{"c", 31}, {"x", 35}}, 0, 0},
		{"what nobody else did, before the others came", []saying{{"y", 5}, {"a", 11}}, 0, 0},
		{"all until the end", []saying{{"d", 41}, {"b", 51}, {"x", 61}}, 65, 0},
		{"not the last before the end", []saying{{"d", 41}, {"b", 51}}, 65, 1},
		{"nothing", nil, 0, 0},
	} {
		r, v := newRoom("test"), newReport()
		for _, s := range order {
			r.heard[s.at] = &line{id: s.at, classic: maphash.String(hashSeed, s.text), text: s.text}
		}
		s := &classicSpan{owner: "p", end: test.end}
		for _, h := range test.heard {
			s.heard = append(s.heard, receipt{maphash.String(hashSeed, h.text), h.at})
		}
		r.checkClassic(s, r.order(), v)
		if got := v.faults["gap"]; len(got) != test.gaps {
			t.Errorf("who heard %s: %d gaps, want %d: %s", test.what, len(got), test.gaps, fmt.Sprint(got))
		}
	}
}
