// What a CUDA board calls of libcuda, libcublasLt and, through cudnn.cpp, of cuDNN, on a CPU: enough to run the board's own checks without a GPU.
//
// Work is not done when it is issued. Each stream is a queue, and now and then some of what could be done next is done,
// drawn at random: a copy whose source is overwritten too early, a missing wait or a wait for the
// wrong moment shows. Memory begins as garbage, every address is checked, and what is left over at the end is an
// error. Several streams may be captured into one graph. Declarations are written out here, so that nothing of NVIDIA's is
// needed. STANDIN_DEVICES says how many devices there are (1).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

namespace {

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "stand-in: %s\n", why.c_str());
  std::abort();
}

struct Capture;

struct Moment {
  bool passed = false;
  double ms = 0;
};

// Work that takes several looks until it is done. Each replay of a graph begins it anew.
using Poll = std::function<bool()>;

struct Op {
  std::function<void()> work;
  std::shared_ptr<Moment> wait, record;
  struct Event* event_of_graph = nullptr;
  std::function<Poll()> begin = {};
  Poll poll = {};
};

struct Stream {
  std::deque<Op> queue;
  // What it is being captured into, and as which lane; lane 0 is the one that began.
  Capture* capturing = nullptr;
  size_t lane = 0;
};

// The work of several streams between begin and end of a capture. A moment in it stands for one in each replay.
struct Capture {
  std::vector<Stream*> streams;
  std::vector<std::vector<Op>> lanes;
  // How much of each lane the first one waits for.
  std::vector<size_t> joined;
  bool ended = false;
};

// An executable graph, with a queue of its own for each lane but the first.
struct Graph {
  std::vector<std::vector<Op>> lanes;
  std::vector<Stream*> queues;
};

struct Event {
  unsigned flags;
  std::shared_ptr<Moment> last;
  // Recorded into a capture: which, in which lane, and after how much of each lane.
  Capture* capture = nullptr;
  std::vector<size_t> after = {};
};

constexpr uint64_t kTotal = 1ull << 30;
std::map<uint64_t, size_t> memory;
std::map<uint64_t, size_t> pinned;
std::vector<Stream*> streams;
int n_events, n_modules, n_graphs, n_contexts, n_descriptions;
std::mt19937 draw(1);

double now_ms() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// Whether something depends on other processes.
bool is_polling() {
  for (Stream* s : streams) {
    if (!s->queue.empty() && s->queue.front().poll) return true;
  }
  return false;
}

bool step() {
  std::vector<Stream*> ready;
  for (Stream* s : streams) {
    if (s->queue.empty() || (s->queue.front().wait && !s->queue.front().wait->passed)) continue;
    Op& op = s->queue.front();
    if (op.begin && !op.poll) op.poll = op.begin();
    if (!op.poll || op.poll()) ready.push_back(s);
  }
  if (ready.empty()) return false;
  Stream* s = ready[draw() % ready.size()];
  Op op = s->queue.front();
  s->queue.pop_front();
  if (op.work) op.work();
  if (op.record) op.record->passed = true, op.record->ms = now_ms();
  return true;
}

void run_until(const std::function<bool()>& done) {
  while (!done()) {
    if (step()) continue;
    if (!is_polling()) die("what is waited for can never come");
    usleep(50);
  }
}

// Calls of NCCL's stand-in that have begun work in the background.
int n_unsettled;

void settled(const char* before) {
  if (n_unsettled != 0) die(std::string(before) + " before NCCL's call has been settled");
}

void issue(Stream* s, Op op) {
  settled("work");
  if (s->capturing) {
    s->capturing->lanes[s->lane].push_back(op);
    return;
  }
  s->queue.push_back(op);
  if (draw() % 16 == 0) {
    for (unsigned n = draw() % 64; n != 0; --n) step();
  }
}

void finish_all() {
  run_until([] { return std::all_of(streams.begin(), streams.end(), [](Stream* s) { return s->queue.empty(); }); });
}

// The allocation that was asked about last.
uint64_t last_start, last_end;

uint8_t* within(uint64_t address, size_t bytes) {
  if (address >= last_start && address + bytes <= last_end) return reinterpret_cast<uint8_t*>(address);
  auto after = memory.upper_bound(address);
  if (after == memory.begin()) die("an address that was never allocated");
  auto [start, size] = *std::prev(after);
  if (address + bytes > start + size) die("an address beyond what was allocated");
  last_start = start, last_end = start + size;
  return reinterpret_cast<uint8_t*>(address);
}

double load(uint64_t address, size_t i, int type) {
  if (type == 0) return *reinterpret_cast<float*>(within(address + 4 * i, 4));
  uint32_t bits = uint32_t(*reinterpret_cast<uint16_t*>(within(address + 2 * i, 2))) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void store(uint64_t address, size_t i, int type, double value) {
  float single = float(value);
  if (type == 0) {
    *reinterpret_cast<float*>(within(address + 4 * i, 4)) = single;
    return;
  }
  uint32_t bits;
  std::memcpy(&bits, &single, 4);
  *reinterpret_cast<uint16_t*>(within(address + 2 * i, 2)) = uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace

// For NCCL's stand-in.
namespace standin {
void enqueue(void* stream, std::function<std::function<bool()>()> begin) {
  Op op;
  op.begin = std::move(begin);
  issue(static_cast<Stream*>(stream), op);
}
uint8_t* device(const void* at, size_t bytes) { return bytes ? within(reinterpret_cast<uint64_t>(at), bytes) : nullptr; }
void count_unsettled(int change) { n_unsettled += change; }
[[noreturn]] void fail(const std::string& why) { die(why); }
}  // namespace standin

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuGetErrorName(int, const char** text) { return *text = "CUDA_ERROR", 0; }
int cuGetErrorString(int, const char** text) { return *text = "of the stand-in", 0; }
int cuDeviceGetCount(int* count) {
  const char* devices = std::getenv("STANDIN_DEVICES");
  return *count = devices ? std::atoi(devices) : 1, 0;
}
int cuDeviceGet(int* device, int ordinal) {
  int count;
  cuDeviceGetCount(&count);
  return ordinal < count ? (*device = ordinal, 0) : 101;
}
int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  return std::memset(uuid, 0, 16), uuid[15] = static_cast<unsigned char>(device), 0;
}
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size, "stand-in"), 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 75: return *value = 9, 0;
    case 76: return *value = 0, 0;
    case 97: return *value = 232448, 0;
    default: return 1;
  }
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &n_contexts, ++n_contexts, 0; }
int cuDevicePrimaryCtxRelease_v2(int) {
  if (--n_contexts == 0 && (!memory.empty() || !pinned.empty() || !streams.empty() || n_events || n_modules || n_graphs ||
                            n_descriptions)) {
    die("something is left in the context that goes");
  }
  return 0;
}
int cuCtxSetCurrent(void*) { return 0; }

uint64_t used() {
  uint64_t sum = 0;
  for (auto [_, size] : memory) sum += size;
  return sum;
}
int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = kTotal - used(), *total = kTotal, 0; }
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  if (bytes == 0) return 1;
  if (used() + bytes > kTotal) return 2;
  void* block = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(block, 0xAB, bytes);
  *address = reinterpret_cast<uint64_t>(block);
  memory[*address] = bytes;
  return 0;
}
int cuMemFree_v2(uint64_t address) {
  finish_all();
  last_start = last_end = 0;
  if (memory.erase(address) == 0) return 1;
  std::free(reinterpret_cast<void*>(address));
  return 0;
}
int cuMemHostAlloc(void** place, size_t bytes, unsigned) {
  *place = std::malloc(bytes);
  pinned[reinterpret_cast<uint64_t>(*place)] = bytes;
  return 0;
}
int cuMemFreeHost(void* place) {
  for (Stream* s : streams) {
    if (!s->queue.empty()) die("page-locked memory goes while a stream has work");
  }
  pinned.erase(reinterpret_cast<uint64_t>(place));
  std::free(place);
  return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* s) {
  within(to, bytes);
  auto after = pinned.upper_bound(reinterpret_cast<uint64_t>(from));
  if (after == pinned.begin()) die("a source that is not page-locked");
  issue(s, {[=] { std::memcpy(within(to, bytes), from, bytes); }, {}, {}});
  return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* s) {
  if (s->capturing) return 900;
  issue(s, {[=] { std::memcpy(to, within(from, bytes), bytes); }, {}, {}});
  return 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* s) {
  issue(s, {[=] { std::memmove(within(to, bytes), within(from, bytes), bytes); }, {}, {}});
  return 0;
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, Stream* s) {
  issue(s, {[=] { std::memset(within(at, bytes), value, bytes); }, {}, {}});
  return 0;
}

int cuStreamCreate(Stream** s, unsigned flags) {
  if (flags != 1) return 1;
  streams.push_back(*s = new Stream);
  return 0;
}
int cuStreamDestroy_v2(Stream* s) {
  finish_all();
  std::erase(streams, s);
  delete s;
  return 0;
}
int cuStreamWaitEvent(Stream* s, Event* e, unsigned) {
  if (e->capture) {
    if (e->capture->ended) return 907;
    // A stream that waits for a captured event is drawn into the capture.
    Capture* c = e->capture;
    if (s->capturing && s->capturing != c) return 902;
    if (!s->capturing) {
      s->capturing = c, s->lane = c->lanes.size();
      c->streams.push_back(s), c->lanes.emplace_back(), c->joined.push_back(0);
    }
    c->lanes[s->lane].push_back({{}, e->last, {}});
    for (size_t lane = 0; s->lane == 0 && lane < e->after.size(); ++lane) {
      c->joined[lane] = std::max(c->joined[lane], e->after[lane]);
    }
    return 0;
  }
  if (s->capturing) return e->last ? 905 : 0;
  if (e->last) issue(s, {{}, e->last, {}});
  return 0;
}
int cuEventCreate(Event** e, unsigned flags) { return *e = new Event{flags, {}}, ++n_events, 0; }
int cuEventDestroy_v2(Event* e) { return delete e, --n_events, 0; }
int cuEventRecord(Event* e, Stream* s) {
  settled("an event");
  e->last = std::make_shared<Moment>(), e->capture = s->capturing, e->after.clear();
  if (Capture* c = s->capturing) {
    c->lanes[s->lane].push_back({{}, {}, e->last});
    // Only its own lane: others have to be joined by themselves.
    e->after.resize(s->lane + 1), e->after[s->lane] = c->lanes[s->lane].size();
    return 0;
  }
  issue(s, {{}, {}, e->last});
  return 0;
}
int cuEventRecordWithFlags(Event* e, Stream* s, unsigned flags) {
  if (!s->capturing || flags != 1) return 1;
  Op op;
  op.event_of_graph = e;
  s->capturing->lanes[s->lane].push_back(op);
  return 0;
}
int cuEventQuery(Event* e) {
  if (e->capture) return 1;
  for (unsigned n = draw() % 8; n != 0; --n) step();
  return !e->last || e->last->passed ? 0 : 600;
}
int cuEventSynchronize(Event* e) {
  if (e->capture) return 1;
  if (e->last) run_until([e] { return e->last->passed; });
  return 0;
}
int cuEventElapsedTime(float* ms, Event* from, Event* to) {
  if (!from->last || !to->last || (from->flags | to->flags) & 2) return 400;
  if (!from->last->passed || !to->last->passed) return 600;
  *ms = float(to->last->ms - from->last->ms);
  return 0;
}

int cuStreamBeginCapture_v2(Stream* s, int mode) {
  if (s->capturing || mode != 2) return 1;
  s->capturing = new Capture{{s}, {{}}, {0}, false}, s->lane = 0;
  return 0;
}
// The capture itself stays: events may point to it.
int cuStreamEndCapture(Stream* s, Graph** graph) {
  settled("the end of a capture");
  if (!s->capturing || s->lane != 0) return 901;
  Capture* c = s->capturing;
  bool all_joined = true;
  for (size_t lane = 1; lane < c->lanes.size(); ++lane) all_joined &= c->joined[lane] == c->lanes[lane].size();
  for (Stream* of : c->streams) of->capturing = nullptr;
  c->ended = true;
  if (!all_joined) return 904;
  return *graph = new Graph{c->lanes, {}}, ++n_graphs, 0;
}
int cuGraphInstantiateWithFlags(Graph** exec, Graph* graph, unsigned long long) {
  *exec = new Graph(*graph);
  for (size_t lane = 1; lane < graph->lanes.size(); ++lane) {
    (*exec)->queues.push_back(new Stream), streams.push_back((*exec)->queues.back());
  }
  return ++n_graphs, 0;
}
int cuGraphDestroy(Graph* graph) { return delete graph, --n_graphs, 0; }
int cuGraphExecDestroy(Graph* exec) {
  finish_all();
  for (Stream* queue : exec->queues) std::erase(streams, queue), delete queue;
  return delete exec, --n_graphs, 0;
}
int cuGraphUpload(Graph*, Stream* s) { return s->capturing ? 900 : 0; }
int cuGraphLaunch(Graph* exec, Stream* s) {
  if (s->capturing) return 900;
  std::map<Moment*, std::shared_ptr<Moment>> moments;
  auto anew = [&](std::shared_ptr<Moment>& of) {
    if (!of) return;
    auto& moment = moments[of.get()];
    if (!moment) moment = std::make_shared<Moment>();
    of = moment;
  };
  for (size_t lane = 0; lane < exec->lanes.size(); ++lane) {
    for (Op op : exec->lanes[lane]) {
      anew(op.wait), anew(op.record);
      if (Event* e = op.event_of_graph) op.record = e->last = std::make_shared<Moment>(), e->capture = nullptr;
      issue(lane == 0 ? s : exec->queues[lane - 1], op);
    }
  }
  return 0;
}

// The one kernel of every module: adds `x` to `n` floats; grid, block and shared memory have to suffice.
static int shared_limit;
int cuModuleLoadDataEx(void** module, const void* image, unsigned n, int* options, void** values) {
  uint32_t magic;
  std::memcpy(&magic, image, 4);
  if (reinterpret_cast<uintptr_t>(image) % 8 || n != 2 || options[0] != 5 || options[1] != 6) return 1;
  if (magic != 0xBA55ED50) return 200;
  if (static_cast<const uint8_t*>(image)[4] == 0) {
    std::snprintf(static_cast<char*>(values[0]), reinterpret_cast<size_t>(values[1]), "ptxas: no such target");
    return 218;
  }
  return *module = &shared_limit, ++n_modules, 0;
}
int cuModuleUnload(void*) { return finish_all(), --n_modules, 0; }
int cuModuleGetFunctionCount(unsigned* count, void*) { return *count = 1, 0; }
int cuModuleEnumerateFunctions(void** functions, unsigned count, void* module) {
  return count == 1 ? (functions[0] = module, 0) : 1;
}
int cuFuncGetName(const char** name, void*) { return *name = "add_fwd_f32", 0; }
int cuFuncGetAttribute(int* value, int attribute, void*) { return attribute == 1 ? (*value = 1024, 0) : 1; }
int cuFuncSetAttribute(void*, int attribute, int value) { return attribute == 8 ? (shared_limit = value, 0) : 1; }
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream* s, void** args, void** extra) {
  uint64_t at;
  int n;
  float x;
  std::memcpy(&at, args[0], 8), std::memcpy(&n, args[1], 4), std::memcpy(&x, args[2], 4);
  bool suffices = uint64_t(gx) * bx >= uint64_t(n) && gy == 1 && gz == 1 && by == 1 && bz == 1;
  if (function != &shared_limit || extra || !suffices || int(shared) > shared_limit) return 1;
  issue(s, {[=] {
    for (int i = 0; i < n; ++i) store(at, i, 0, load(at, i, 0) + x);
  }, {}, {}});
  return 0;
}

// cuBLASLt.
struct Description {
  char kind;
  int type = 0;
  uint64_t rows = 0, columns = 0;
  int64_t leading = 0;
  std::map<int, int64_t> attributes = {};
};
struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

// All elements of a matrix, and of the gaps between its columns.
static std::vector<double> matrix(uint64_t at, size_t first, const Description& d) {
  std::vector<double> values((d.columns - 1) * d.leading + d.rows);
  for (size_t i = 0; i < values.size(); ++i) values[i] = load(at, first + i, d.type);
  return values;
}

static int set(Description* d, char kind, int attribute, const void* value, size_t size) {
  static const std::map<std::pair<char, int>, size_t> sizes = {
      {{'p', 3}, 4},  {{'p', 4}, 4},  {{'p', 7}, 4}, {{'p', 8}, 8}, {{'p', 11}, 8}, {{'p', 12}, 8}, {{'l', 5}, 4},
      {{'l', 6}, 8},  {{'f', 1}, 8},  {{'f', 5}, 4}, {{'f', 6}, 4}, {{'f', 7}, 4},  {{'f', 8}, 4}};
  auto known = sizes.find({kind, attribute});
  if (d->kind != kind || known == sizes.end() || known->second != size) return 7;
  int64_t wide = 0;
  std::memcpy(&wide, value, size);
  d->attributes[attribute] = wide;
  return 0;
}
static int destroy(Description* d) { return delete d, --n_descriptions, 0; }
int cublasLtCreate(void** handle) { return *handle = &n_descriptions, 0; }
int cublasLtDestroy(void*) { return 0; }
const char* cublasLtGetStatusString(int) { return "stand-in"; }
size_t cublasLtGetVersion() { return 130100; }
int cublasLtMatmulDescCreate(Description** d, int compute, int scale) {
  if ((compute != 68 && compute != 77) || scale != 0) return 7;
  return *d = new Description{'p'}, ++n_descriptions, 0;
}
int cublasLtMatrixLayoutCreate(Description** d, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  return *d = new Description{'l', type, rows, columns, leading, {}}, ++n_descriptions, 0;
}
int cublasLtMatmulPreferenceCreate(Description** d) { return *d = new Description{'f'}, ++n_descriptions, 0; }
int cublasLtMatmulDescDestroy(Description* d) { return destroy(d); }
int cublasLtMatrixLayoutDestroy(Description* d) { return destroy(d); }
int cublasLtMatmulPreferenceDestroy(Description* d) { return destroy(d); }
int cublasLtMatmulDescSetAttribute(Description* d, int a, const void* v, size_t n) { return set(d, 'p', a, v, n); }
int cublasLtMatrixLayoutSetAttribute(Description* d, int a, const void* v, size_t n) { return set(d, 'l', a, v, n); }
int cublasLtMatmulPreferenceSetAttribute(Description* d, int a, const void* v, size_t n) { return set(d, 'f', a, v, n); }

// The first answer cannot be had; the second is bound to the shape.
int cublasLtMatmulAlgoGetHeuristic(void*, Description*, Description*, Description*, Description* c, Description* d,
                                   Description* preference, int n, Heuristic* answers, int* n_answers) {
  if (n < 2 || c != d || preference->attributes.size() != 5) return 7;
  answers[0].state = 15;
  answers[1] = {{d->rows, d->columns, uint64_t(d->leading)}, 4096, 0, 1.0f, {}};
  return *n_answers = 2, 0;
}

int cublasLtMatmul(void*, Description* p, const void* alpha_at, uint64_t a_at, Description* a, uint64_t b_at, Description* b,
                   const void* beta_at, uint64_t c_at, Description* c, uint64_t d_at, Description* d,
                   const uint64_t* algorithm, uint64_t workspace, size_t workspace_bytes, Stream* s) {
  float alpha, beta;
  std::memcpy(&alpha, alpha_at, 4), std::memcpy(&beta, beta_at, 4);
  auto get = [](Description* x, int attribute, int64_t missing) {
    auto at = x->attributes.find(attribute);
    return at == x->attributes.end() ? missing : at->second;
  };
  bool ta = get(p, 3, 0), tb = get(p, 4, 0);
  uint64_t m = ta ? a->columns : a->rows, k = ta ? a->rows : a->columns, n = tb ? b->rows : b->columns;
  bool agrees = (tb ? b->columns : b->rows) == k && d->rows == m && d->columns == n && c == d && c_at == d_at &&
                a->type == b->type && algorithm[0] == m && algorithm[1] == n && workspace_bytes >= 4096;
  if (!agrees) return 7;
  within(workspace, workspace_bytes);
  const Description A = *a, B = *b, D = *d;
  int64_t batch = get(d, 5, 1), epilogue = get(p, 7, 1), bias = get(p, 8, 0), aux = get(p, 11, 0), aux_leading = get(p, 12, 0);
  if (get(a, 5, 1) != batch || get(b, 5, 1) != batch) return 7;
  int64_t strides[] = {get(a, 6, 0), get(b, 6, 0), get(d, 6, 0)};
  int64_t sa = strides[0], sb = strides[1], sd = strides[2];
  issue(s, {[=] {
    for (int64_t z = 0; z < batch; ++z) {
      const auto left = matrix(a_at, z * sa, A), right = matrix(b_at, z * sb, B);
      for (uint64_t j = 0; j < n; ++j) {
        for (uint64_t i = 0; i < m; ++i) {
          double sum = 0;
          for (uint64_t l = 0; l < k; ++l) {
            sum += left[ta ? l + i * A.leading : i + l * A.leading] * right[tb ? j + l * B.leading : l + j * B.leading];
          }
          size_t place = z * sd + i + j * D.leading;
          double value = alpha * sum + (beta != 0 ? beta * load(d_at, place, D.type) : 0);
          if (epilogue & 4) value += load(bias, i, D.type);
          if (epilogue & 128) store(aux, i + j * aux_leading, D.type, value);
          if (epilogue & 32) value *= 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (value + 0.044715 * value * value * value)));
          store(d_at, place, D.type, value);
        }
      }
    }
  }, {}, {}});
  return 0;
}

// The C interface of cudnn.cpp: attention by its definition, in double, and plans that differ in their workspace. The
// second is made but never first, the third is offered where gradients may be summed in any order, the last cannot be made.
struct Shape {
  int64_t batch, time, n_heads, n_kv_heads, head_width, qkv_row, out_row;
  float scale;
  int32_t deterministic, causal, window;
};
struct Tensors {
  uint64_t q, k, v, out, stats, grad_out, grad_q, grad_k, grad_v;
};
struct Attention {
  Stream* stream;
  int n_plans = 0;
};
struct Plan {
  Attention* of;
  Shape shape;
  bool backward;
  int number;
  int64_t workspace;
};

static int say(const char* why, char* message, size_t size) { return std::snprintf(message, size, "%s", why), 1; }

int wattle_attention_open(void* library, void* stream, void** handle, char* message, size_t size) {
  if (!library) return say("no library", message, size);
  return *handle = new Attention{static_cast<Stream*>(stream)}, 0;
}
void wattle_attention_close(Attention* handle) {
  if (handle->n_plans != 0) die("a plan outlives cuDNN");
  delete handle;
}
size_t wattle_attention_version() { return 91900; }
int wattle_attention_names(void*, const Shape* s, int32_t backward, char* names, size_t names_size, char*, size_t) {
  const char* any_order = backward && !s->deterministic ? "eng3\n" : "";
  return std::snprintf(names, names_size, "eng1_k2=0\neng1_k2=1\n%seng9\n", any_order), 0;
}
int wattle_attention_plan(Attention* of, const Shape* s, int32_t backward, const char* name, void** plan, int64_t* workspace,
                          char* message, size_t size) {
  static const std::map<std::string, int> numbers = {{"eng1_k2=0", 1}, {"eng1_k2=1", 2}, {"eng3", 3}};
  auto number = numbers.find(name);
  if (number == numbers.end()) return say("eng9 is not supported", message, size);
  *workspace = number->second == 3 ? 256 : 256 + number->second * s->batch * s->n_heads * s->time * s->time;
  return *plan = new Plan{of, *s, backward != 0, number->second, *workspace}, ++of->n_plans, 0;
}
void wattle_attention_free(Plan* plan) { --plan->of->n_plans, delete plan; }

// The rows of one head, whose first is at element `first`.
static std::vector<double> head(uint64_t at, int64_t first, int64_t row_stride, const Shape& s) {
  std::vector<double> rows;
  for (int64_t row = 0; row < s.time; ++row) {
    for (int64_t i = 0; i < s.head_width; ++i) rows.push_back(load(at, first + row * row_stride + i, 14));
  }
  return rows;
}

static void store_head(uint64_t at, int64_t first, int64_t row_stride, const Shape& s, const std::vector<double>& rows) {
  for (int64_t i = 0; i < s.time * s.head_width; ++i) {
    store(at, first + i / s.head_width * row_stride + i % s.head_width, 14, rows[i]);
  }
}

static void attend(const Plan& plan, const Tensors& x) {
  const Shape& s = plan.shape;
  const int64_t t = s.time, d = s.head_width, group = s.n_heads / s.n_kv_heads;
  auto dot = [d](const std::vector<double>& a, int64_t i, const std::vector<double>& b, int64_t j) {
    double sum = 0;
    for (int64_t l = 0; l < d; ++l) sum += a[i * d + l] * b[j * d + l];
    return sum;
  };
  std::vector<double> grad_k, grad_v;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.n_heads; ++h) {
      const int64_t q_at = b * t * s.qkv_row + h * d, kv_at = b * t * s.qkv_row + h / group * d;
      const int64_t out_at = b * t * s.out_row + h * d;
      const auto q = head(x.q, q_at, s.qkv_row, s), k = head(x.k, kv_at, s.qkv_row, s), v = head(x.v, kv_at, s.qkv_row, s);
      std::vector<double> out(t * d), grad_out, grad_q(t * d);
      if (plan.backward) out = head(x.out, out_at, s.out_row, s), grad_out = head(x.grad_out, out_at, s.out_row, s);
      if (h % group == 0) grad_k.assign(t * d, 0), grad_v.assign(t * d, 0);
      for (int64_t row = 0; row < t; ++row) {
        const int64_t end = s.causal ? row + 1 : t, begin = s.window > 0 ? std::max<int64_t>(0, row + 1 - s.window) : 0;
        std::vector<double> p(t);
        double largest = -INFINITY, sum = 0;
        for (int64_t j = begin; j < end; ++j) largest = std::max(largest, p[j] = s.scale * dot(q, row, k, j));
        for (int64_t j = begin; j < end; ++j) sum += std::exp(p[j] - largest);
        const double lse = largest + std::log(sum);
        for (int64_t j = begin; j < end; ++j) p[j] = std::exp(p[j] - lse);
        if (!plan.backward) {
          store(x.stats, (b * s.n_heads + h) * t + row, 0, lse);
          for (int64_t j = begin; j < end; ++j) {
            for (int64_t l = 0; l < d; ++l) out[row * d + l] += p[j] * v[j * d + l];
          }
          continue;
        }
        const double along = dot(grad_out, row, out, row);
        for (int64_t j = begin; j < end; ++j) {
          const double grad = s.scale * p[j] * (dot(grad_out, row, v, j) - along);
          for (int64_t l = 0; l < d; ++l) {
            grad_q[row * d + l] += grad * k[j * d + l];
            grad_k[j * d + l] += grad * q[row * d + l];
            grad_v[j * d + l] += p[j] * grad_out[row * d + l];
          }
        }
      }
      if (!plan.backward) {
        store_head(x.out, out_at, s.out_row, s, out);
        continue;
      }
      store_head(x.grad_q, q_at, s.qkv_row, s, grad_q);
      if (h % group != group - 1) continue;
      store_head(x.grad_k, kv_at, s.qkv_row, s, grad_k);
      store_head(x.grad_v, kv_at, s.qkv_row, s, grad_v);
    }
  }
}

int wattle_attention_run(Attention* handle, const Plan* made, const Tensors* tensors, void* workspace, char*, size_t) {
  const Plan plan = *made;
  const Tensors x = *tensors;
  const uint64_t at = reinterpret_cast<uint64_t>(workspace);
  issue(handle->stream, {[=] {
    std::memset(within(at, plan.workspace), plan.number, plan.workspace);
    attend(plan, x);
  }, {}, {}});
  return 0;
}

}  // extern "C"
