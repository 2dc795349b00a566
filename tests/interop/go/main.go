// The Go library's pool over library_worker.py, which runs on our worker package; prints one line for each case.
//
// Usage: library_pool PYTHON SCRIPT SOCKET
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/YuminosukeSato/pyproc/pkg/pyproc"
)

const workers = 4

var failed = false

func check(good bool, name string, why any) {
	if good {
		fmt.Println("ok", name)
		return
	}
	fmt.Println("not ok", name, why)
	failed = true
}

type object map[string]any

// No context that is cancelled afterwards: the library may then close a connection that it has just put back.
func double(pool *pyproc.Pool, value float64) (float64, error) {
	var reply struct {
		Result float64 `json:"result"`
	}
	err := pool.Call(context.Background(), "double", object{"value": value}, &reply)
	return reply.Result, err
}

func pid(ctx context.Context, pool *pyproc.Pool, ms int) (int, error) {
	var reply int
	err := pool.Call(ctx, "pid", object{"ms": ms}, &reply)
	return reply, err
}

func callMany(pool *pyproc.Pool) {
	var wrong atomic.Int64
	var last atomic.Value
	var all sync.WaitGroup
	for i := range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			for j := range 100 {
				value := float64(1000*i + j)
				if result, err := double(pool, value); err != nil || result != 2*value {
					wrong.Add(1)
					last.Store(fmt.Sprintf("%v: %v, %v", value, result, err))
				}
			}
		}()
	}
	all.Wait()
	check(wrong.Load() == 0, "calls of several goroutines", fmt.Sprint(wrong.Load(), " wrong, the last one ", last.Load()))
}

func callAndFail(pool *pyproc.Pool) {
	var reply any
	err := pool.Call(context.Background(), "fail", object{"message": "no such thing"}, &reply)
	check(err != nil && strings.Contains(err.Error(), "no such thing"), "an error", err)
	err = pool.Call(context.Background(), "nobody", object{}, &reply)
	check(err != nil && strings.Contains(err.Error(), "nobody"), "no such method", err)
	text := strings.Repeat("ü", 1<<20)
	err = pool.Call(context.Background(), "echo", object{"text": text}, &reply)
	answer, _ := reply.(map[string]any)
	check(err == nil && answer["text"] == text, "2 MiB", err)
}

// Ours is interrupted by the cancel; the library's own would sleep on.
func cancelCalls(pool *pyproc.Pool) {
	for range workers {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_, err := pid(ctx, pool, 600000)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			check(false, "calls that are cancelled", err)
			return
		}
	}
	check(true, "calls that are cancelled", nil)
	result, err := double(pool, 21)
	check(err == nil && result == 42, "a call afterwards", err)
}

func processes(pool *pyproc.Pool) map[int]bool {
	found := map[int]bool{}
	for range 4 * workers {
		if one, err := pid(context.Background(), pool, 0); err == nil {
			found[one] = true
		}
	}
	return found
}

func main() {
	options := pyproc.PoolOptions{
		Config: pyproc.PoolConfig{Workers: workers, MaxInFlight: 4},
		WorkerConfig: pyproc.WorkerConfig{
			PythonExec: os.Args[1], WorkerScript: os.Args[2], SocketPath: os.Args[3], StartTimeout: time.Minute,
		},
	}
	pool, err := pyproc.NewPool(options, pyproc.NewLogger(pyproc.LoggingConfig{Level: "error", Format: "text"}))
	if err == nil {
		err = pool.Start(context.Background())
	}
	check(err == nil, "a pool of four workers", err)
	if err != nil {
		os.Exit(1)
	}
	check(pool.Health().HealthyWorkers == workers, "all healthy", pool.Health())
	result, err := double(pool, 21)
	check(err == nil && result == 42, "a call", err)
	callAndFail(pool)
	callMany(pool)
	cancelCalls(pool)
	found := processes(pool)
	check(len(found) == workers, "on all four workers", found)
	err = pool.Shutdown(context.Background())
	check(err == nil, "shutdown", err)
	left, _ := filepath.Glob(os.Args[3] + "*")
	for one := range found {
		if syscall.Kill(one, 0) == nil {
			left = append(left, fmt.Sprint(one))
		}
	}
	check(len(left) == 0, "no process and no socket is left", left)
	if failed {
		os.Exit(1)
	}
}
