package queue

import (
	"slices"
	"testing"
	"testing/synctest"
)

// takeAll takes what there is.
func takeAll(q *Queue[int]) (items []int) {
	for item, ok := q.TryTake(); ok; item, ok = q.TryTake() {
		items = append(items, item)
	}
	return items
}

// Elements come out in order, whatever was taken between, and no more go in than allowed.
func TestOrderAndBound(t *testing.T) {
	const max = 10
	for taken := range max + 1 { // between the first ten and the next
		q := New[int](max)
		next, first := 0, 0
		for range 5 {
			for q.Put(next) {
				next++
			}
			if n := q.Len(); n != max {
				t.Fatalf("full with %d", n)
			}
			for range taken {
				if item, ok := q.TryTake(); item != first || !ok {
					t.Fatalf("took %d, %v, want %d", item, ok, first)
				}
				first++
			}
			if n := q.Len(); n != max-taken {
				t.Fatalf("%d are left of %d", n, max-taken)
			}
		}
		if items := takeAll(q); len(items) != next-first || len(items) > 0 && items[0] != first || !slices.IsSorted(items) {
			t.Errorf("taking %d each time: left are %v, want %d to %d", taken, items, first, next-1)
		}
	}
}

// Take waits for an element, and for the end.
func TestTakeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New[int](10)
		var items []int
		done := false
		go func() {
			for item, ok := q.Take(); ok; item, ok = q.Take() {
				items = append(items, item)
			}
			done = true
		}()
		for i := range 3 {
			synctest.Wait()
			if len(items) != i {
				t.Errorf("took %v before %d was put", items, i)
			}
			q.Put(i)
		}
		synctest.Wait()
		if done {
			t.Error("the queue is not closed")
		}
		q.Close()
		synctest.Wait()
		if !done || !slices.Equal(items, []int{0, 1, 2}) {
			t.Errorf("%v, done: %v", items, done)
		}
	})
}

// What is in a closed queue can be taken. Nothing can be put into it.
func TestClose(t *testing.T) {
	q := New[int](10)
	q.Put(1)
	q.Put(2)
	q.Close()
	for _, want := range []int{1, 2, 0} {
		if item, ok := q.Take(); item != want || ok != (want > 0) {
			t.Errorf("took %d, %v, want %d", item, ok, want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("put after Close")
		}
	}()
	q.Put(3)
}

// A queue that was long keeps little memory when it is empty, nor does it grow while it is
// short. What was taken is not kept alive.
func TestMemory(t *testing.T) {
	q := New[*int](1000)
	for range 1000 {
		q.Put(new(int))
	}
	for range 1000 {
		q.TryTake()
	}
	if n := cap(q.items); n > minCap {
		t.Errorf("an empty queue keeps place for %d", n)
	}
	q.Put(new(int))
	q.Put(new(int))
	for range 1000 {
		q.Put(new(int))
		q.TryTake()
	}
	if n := cap(q.items); n > minCap {
		t.Errorf("a queue of two has place for %d", n)
	}
	for q.Len() < cap(q.items) {
		q.Put(new(int))
	}
	for q.Len() > 1 {
		q.TryTake()
	}
	q.Put(new(int))
	kept := 0
	for _, item := range q.items[:cap(q.items)] {
		if item != nil {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("a queue of two keeps %d", kept)
	}
}
