//go:build !linux

package main

import (
	"context"
	"errors"
)

// run fails.
func run(context.Context, program, loadSpec) (result, error) {
	return result{}, errors.New("this needs Linux: the clients run on epoll, and /proc shows what a server uses")
}
