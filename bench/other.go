//go:build !linux

package main

import (
	"context"
	"errors"
)

var errLinux = errors.New("this needs Linux: the crowd runs on epoll, and /proc tells what a server uses")

func generate(order) (result, error) { return result{}, errLinux }

func run(context.Context, program, order) (result, error) { return result{}, errLinux }
