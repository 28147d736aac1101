package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

const shownFaults = 10 // of each kind

// report is what went wrong, and what happened.
type report struct {
	mu           sync.Mutex
	faults       map[string][]string // by kind
	happened     map[string]int
	overRestarts int     // lines said twice over a restart, which forgets
	forgotten    int     // and after more than is kept
	begins       []int64 // of processes
}

func newReport() *report {
	return &report{faults: make(map[string][]string), happened: make(map[string]int)}
}

// gap notes that somebody has not heard something.
func (v *report) gap(format string, args ...any) { v.add("gap", format, args...) }

// double notes that somebody has heard something twice, or too late.
func (v *report) double(format string, args ...any) { v.add("double", format, args...) }

// odd notes that the server has done anything else that it should not.
func (v *report) fault(format string, args ...any) { v.add("fault", format, args...) }

func (v *report) add(kind, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults[kind] = append(v.faults[kind], fmt.Sprintf(format, args...))
}

// count counts what happened.
func (v *report) count(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.happened[what]++
}

// counted returns how often something happened.
func (v *report) counted(what string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.happened[what]
}

// list returns what happened of a kind, which is what its names begin with, and how often.
func (v *report) list(kind string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []string
	for _, what := range slices.Sorted(maps.Keys(v.happened)) {
		if name, ok := strings.CutPrefix(what, kind+": "); ok {
			all = append(all, fmt.Sprintf("%s %d", name, v.happened[what]))
		}
	}
	if all == nil {
		return "none"
	}
	return strings.Join(all, ", ")
}

// processOf returns in which process, from 1 on, a message of this id was said.
func (v *report) processOf(id int64) int {
	n, _ := slices.BinarySearch(v.begins, id)
	return n
}

// bad reports whether anything went wrong.
func (v *report) bad() bool { return len(v.faults) > 0 }

// details returns the first few faults of each kind, one a line.
func (v *report) details() string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(v.faults)) {
		for i, what := range v.faults[kind] {
			if i == shownFaults {
				fmt.Fprintf(&b, "%s: %d more\n", kind, len(v.faults[kind])-i)
				break
			}
			fmt.Fprintf(&b, "%s: %s\n", kind, what)
		}
	}
	return b.String()
}
