// Running one function on several threads.
//
// If PyTorch's OpenMP runtime is loaded, its thread team is used (the entry points are passed to fs_use_openmp): a
// second set of threads would compete with that team, whose threads spin for a while after every parallel region.
// Otherwise, and in a forked child, where that team no longer exists, our own small thread pool is used.
#pragma once
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace fastslow {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A barrier for `members` threads. Spins for a short while, then yields, so that more threads than cores
// only lose time.
class Barrier {
    std::atomic<int> waiting{0}, phase{0};
    int members = 1;

  public:
    void reset(int count) {
        members = count;
        waiting.store(0);
        phase.store(0);
    }
    void wait() {
        if (members == 1) return;
        const int now = phase.load(std::memory_order_acquire);
        if (waiting.fetch_add(1, std::memory_order_acq_rel) == members - 1) {
            waiting.store(0, std::memory_order_relaxed);
            phase.store(now + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase.load(std::memory_order_acquire) == now; spins++) {
            if (spins < 4000)
                relax();
            else
                sched_yield();
        }
    }
};

using Task = void (*)(void* data, int thread, int threads);

struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread_number)() = nullptr;
    int (*team_size)() = nullptr;
    pid_t owner = 0;
};

inline OpenMP& openmp() {
    static OpenMP runtime;
    return runtime;
}

class Pool {
    std::mutex busy, lock;
    std::condition_variable start, done;
    std::vector<std::thread> workers;
    Task task = nullptr;
    void* data = nullptr;
    int threads = 0, left = 0;
    unsigned long round = 0;

    void work(int id) {
        unsigned long seen = 0;
        std::unique_lock<std::mutex> hold(lock);
        while (true) {
            start.wait(hold, [&] { return round != seen; });
            seen = round;
            if (id >= threads) continue;
            hold.unlock();
            task(data, id, threads);
            hold.lock();
            if (--left == 0) done.notify_one();
        }
    }

  public:
    void run(Task fn, void* with, int count) {
        std::lock_guard<std::mutex> one_caller(busy);
        std::unique_lock<std::mutex> hold(lock);
        while (static_cast<int>(workers.size()) < count - 1) {
            const int id = static_cast<int>(workers.size()) + 1;
            workers.emplace_back([this, id] { work(id); });
        }
        task = fn, data = with, threads = count, left = count - 1;
        round++;
        hold.unlock();
        start.notify_all();
        fn(with, 0, count);
        hold.lock();
        done.wait(hold, [&] { return left == 0; });
    }
};

// The pool of this process; never destroyed, because its threads still wait in it when the process ends.
inline Pool& pool() {
    static std::mutex guard;
    static std::atomic<Pool*> current{nullptr};
    static std::atomic<pid_t> owner{0};
    if (owner.load() != getpid()) {
        std::lock_guard<std::mutex> hold(guard);
        if (owner.load() != getpid()) {
            current.store(new Pool);
            owner.store(getpid());
        }
    }
    return *current.load();
}

// Calls fn(data, i, n) for i in 0 .. n-1, each on its own thread, in parallel; n is at most `threads`.
inline void parallel(Task fn, void* data, int threads) {
    if (threads <= 1) return fn(data, 0, 1);
    const OpenMP& runtime = openmp();
    if (runtime.parallel && runtime.owner == getpid()) {
        struct Call {
            Task fn;
            void* data;
        } call{fn, data};
        runtime.parallel(
            [](void* p) {
                Call* c = static_cast<Call*>(p);
                c->fn(c->data, openmp().thread_number(), openmp().team_size());
            },
            &call, static_cast<unsigned>(threads), 0);
        return;
    }
    pool().run(fn, data, threads);
}

}  // namespace fastslow
