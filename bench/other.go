//go:build !linux

package main

import (
	"context"
	"errors"
)

var errLinux = errors.New("this needs Linux: the crowd runs on epoll, and /proc tells what a server uses")

func generate(loadSpec) (result, error) { return result{}, errLinux }

func run(context.Context, program, loadSpec) (result, error) { return result{}, errLinux }
