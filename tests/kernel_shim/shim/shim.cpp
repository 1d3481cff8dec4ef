// Fibers, barriers and the schedule. See shim.h.
#include "shim.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace shim {

thread_local Index3 thread_idx, block_idx, block_dim, grid_dim;

namespace {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr unsigned WARP_LANES = 32;

enum class State { Ready, AtBlockBarrier, AtWarpBarrier, Done };

#if defined(__x86_64__)
// Saves what a function call keeps, takes the other stack, and brings back what was saved there.
extern "C" void shim_switch(void** save, void* load);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size shim_switch, .-shim_switch
)");

struct Context {
  void* stack_pointer = nullptr;

  void prepare(unsigned char* stack, void (*entry)()) {
    auto top = reinterpret_cast<uintptr_t>(stack + STACK_BYTES) & ~uintptr_t(15);
    auto* words = reinterpret_cast<void**>(top);
    // Where `entry` would return to, itself, then six registers. On entry the stack is 8 past a multiple of 16.
    *--words = nullptr;
    *--words = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--words = nullptr;
    stack_pointer = words;
  }
};

void switch_to(Context& from, Context& to) { shim_switch(&from.stack_pointer, to.stack_pointer); }
#else
struct Context {
  ucontext_t context;

  void prepare(unsigned char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
};

void switch_to(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

struct Fiber {
  Context context;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[STACK_BYTES]};
  Index3 index;
  State state;
  unsigned position;
};

thread_local std::vector<std::unique_ptr<Fiber>> pool;
thread_local Fiber* current;
thread_local Context scheduler;
thread_local Call body;
thread_local void* const* arguments;
thread_local uint64_t slots[WARP_LANES][WARP_LANES];
// What the launch asked for, with guards on both sides. All of it is not-a-numbers when a block starts.
struct alignas(16) Line {
  unsigned char bytes[16];
};
thread_local std::vector<Line> shared;
thread_local size_t shared_bytes;
constexpr size_t GUARD_LINES = 16;
constexpr unsigned char NO_NUMBER = 0xff;

void prepare_shared() {
  shared.resize((shared_bytes + sizeof(Line) - 1) / sizeof(Line) + 2 * GUARD_LINES);
  if (shared_bytes > 0) std::memset(static_cast<void*>(shared.data()), NO_NUMBER, shared.size() * sizeof(Line));
}

bool guards_are_whole() {
  const auto* first = reinterpret_cast<const unsigned char*>(shared.data());
  const auto* end = first + shared.size() * sizeof(Line);
  const auto is_whole = [](unsigned char byte) { return byte == NO_NUMBER; };
  return shared_bytes == 0 || (std::all_of(first, first + GUARD_LINES * sizeof(Line), is_whole) &&
                               std::all_of(first + GUARD_LINES * sizeof(Line) + shared_bytes, end, is_whole));
}

void wait(State state) {
  Fiber* self = current;
  self->state = state;
  switch_to(self->context, scheduler);
  thread_idx = self->index;
}

void entry() {
  body(arguments);
  wait(State::Done);
}

// Which warps are held back for a while, drawn anew now and then.
struct Schedule {
  uint64_t seed;
  uint32_t held = 0;

  void redraw() {
    if (seed == 0) return;
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    if (seed % 4 == 0) held = uint32_t(seed >> 32) & uint32_t(seed >> 16);
    if (seed % 4 == 1) held = 0;
  }

  bool holds(unsigned warp) const { return held >> warp & 1; }
};

// Lets warps go on whose living lanes have all arrived.
bool release_warps(unsigned n) {
  bool released = false;
  for (unsigned first = 0; first < n; first += WARP_LANES) {
    const unsigned end = std::min(n, first + WARP_LANES);
    unsigned arrived = 0, living = 0;
    for (unsigned i = first; i < end; i++) {
      arrived += pool[i]->state == State::AtWarpBarrier;
      living += pool[i]->state != State::Done;
    }
    if (arrived == 0 || arrived != living) continue;
    for (unsigned i = first; i < end; i++) {
      if (pool[i]->state == State::AtWarpBarrier) pool[i]->state = State::Ready;
    }
    released = true;
  }
  return released;
}

// Runs one block; false if its threads wait for one another for ever.
bool run_block(unsigned n, Schedule& schedule) {
  for (unsigned i = 0; i < n; i++) {
    Fiber& fiber = *pool[i];
    fiber.index = {i % block_dim.x, i / block_dim.x % block_dim.y, i / block_dim.x / block_dim.y};
    fiber.state = State::Ready;
    fiber.position = i;
    fiber.context.prepare(fiber.stack.get(), entry);
  }
  for (;;) {
    schedule.redraw();
    bool ran = false;
    for (unsigned i = 0; i < n; i++) {
      Fiber& fiber = *pool[i];
      if (fiber.state != State::Ready) continue;
      ran = true;
      if (schedule.holds(i / WARP_LANES)) continue;
      current = &fiber;
      thread_idx = fiber.index;
      switch_to(scheduler, fiber.context);
    }
    unsigned done = 0, waiting = 0;
    for (unsigned i = 0; i < n; i++) {
      done += pool[i]->state == State::Done;
      waiting += pool[i]->state == State::AtBlockBarrier;
    }
    if (done == n) return true;
    ran |= release_warps(n);
    // As on the device, threads that have ended do not count.
    if (waiting > 0 && waiting + done == n) {
      for (unsigned i = 0; i < n; i++) {
        if (pool[i]->state == State::AtBlockBarrier) pool[i]->state = State::Ready;
      }
      ran = true;
    }
    if (!ran) return false;
  }
}

std::map<std::string, Launcher>& kernels() {
  static std::map<std::string, Launcher> map;
  return map;
}

}  // namespace

Registration::Registration(const char* name, Launcher launcher) { kernels()[name] = launcher; }

void block_barrier() { wait(State::AtBlockBarrier); }

void warp_barrier() { wait(State::AtWarpBarrier); }

unsigned lane() { return current->position % WARP_LANES; }

unsigned char* dynamic_shared() { return shared[GUARD_LINES].bytes; }

uint64_t exchange(uint64_t value, unsigned source) {
  const unsigned warp = current->position / WARP_LANES;
  slots[warp][lane()] = value;
  warp_barrier();
  const uint64_t got = slots[warp][source % WARP_LANES];
  warp_barrier();
  return got;
}

}  // namespace shim

// 0 done, 1 no such kernel, 2 wrong number of arguments, 3 threads wait for one another for ever, 4 too many threads, 5 a
// block wrote beside its shared memory.
extern "C" const char* wattle_shim_kernel(size_t idx) {
  if (idx >= shim::kernels().size()) return nullptr;
  return std::next(shim::kernels().begin(), static_cast<std::ptrdiff_t>(idx))->first.c_str();
}

extern "C" int wattle_shim_launch(const char* name, const unsigned* grid, const unsigned* block, void* const* args,
                                  const char* types, size_t n_args, size_t dynamic_shared_bytes,
                                  uint64_t seed, const unsigned* only_block) {
  using namespace shim;
  const auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  const std::string expected = found->second.types;
  if (expected.size() != n_args) return 2;
  for (size_t i = 0; i < n_args; i++) {
    // A null pointer is one of any type.
    const bool is_null = types[i] == '0' && std::isupper(static_cast<unsigned char>(expected[i]));
    if (types[i] != expected[i] && !is_null) return 2;
  }
  const unsigned n = block[0] * block[1] * block[2];
  if (n == 0 || n > 1024) return 4;
  while (pool.size() < n) pool.push_back(std::make_unique<Fiber>());
  grid_dim = {grid[0], grid[1], grid[2]};
  block_dim = {block[0], block[1], block[2]};
  body = found->second.call;
  arguments = args;
  shared_bytes = dynamic_shared_bytes;
  Schedule schedule{seed};
  const auto run = [&](Index3 block) {
    block_idx = block;
    prepare_shared();
    if (!run_block(n, schedule)) return 3;
    return guards_are_whole() ? 0 : 5;
  };
  if (only_block != nullptr) return run({only_block[0], only_block[1], only_block[2]});
  for (unsigned z = 0; z < grid[2]; z++) {
    for (unsigned y = 0; y < grid[1]; y++) {
      for (unsigned x = 0; x < grid[0]; x++) {
        if (const int status = run({x, y, z})) return status;
      }
    }
  }
  return 0;
}
