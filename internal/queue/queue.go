// Package queue has a bounded queue from one goroutine, which never waits, to another, which
// does. Unlike a channel it takes up memory for what is in it alone: ten thousand of them are
// nearly always empty.
package queue

import "sync"

// minCap is how many elements an empty queue keeps memory for.
const minCap = 4

// A Queue holds elements in order. Make it with New. One goroutine at a time may wait in Take.
type Queue[T any] struct {
	limit int // how many elements there may be

	mu     sync.Mutex
	filled sync.Cond // there is an element, or the queue is closed
	items  []T       // from first on
	first  int
	closed bool
}

// New returns an empty queue for at most limit elements.
func New[T any](limit int) *Queue[T] {
	q := &Queue[T]{limit: limit}
	q.filled.L = &q.mu
	return q
}

// Put adds an element at the end. It reports false if the queue is full. It panics after Close.
func (q *Queue[T]) Put(item T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		panic("queue: Put after Close")
	case len(q.items)-q.first == q.limit:
		return false
	case len(q.items) == cap(q.items) && q.first > 0:
		n := copy(q.items, q.items[q.first:])
		clear(q.items[n:])
		q.items, q.first = q.items[:n], 0
	}
	q.items = append(q.items, item)
	q.filled.Signal()
	return true
}

// Close says that nothing more will be put into the queue. What is in it can be taken.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.filled.Signal()
}

// Take removes the first element and returns it. It waits for one, and reports false if the
// queue is closed and empty.
func (q *Queue[T]) Take() (item T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.filled.Wait()
	}
	return q.take()
}

// TryTake is Take without waiting: it also reports false if the queue is empty.
func (q *Queue[T]) TryTake() (item T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.take()
}

// take removes the first element. The lock must be held.
func (q *Queue[T]) take() (item T, ok bool) {
	if len(q.items) == 0 {
		return item, false
	}
	var none T
	item, q.items[q.first] = q.items[q.first], none
	if q.first++; q.first == len(q.items) {
		q.items, q.first = q.items[:0], 0
		if cap(q.items) > minCap {
			q.items = nil
		}
	}
	return item, true
}

// Len returns how many elements there are.
func (q *Queue[T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) - q.first
}
