// cuDNN's fused attention behind a C interface: plan forward, plan backward, run.
//
// Shapes: q, out (b, t, h, d); k, v (b, t, h_kv, d); stats (b, h, t), f32, the logarithm of each row's sum of
// exponentials. Everything else is bf16. A row (b, t) of q, k, v and of their gradients is followed by the next one
// qkv_row elements on, a row of out and of its gradient out_row elements on; heads lie side by side. So q, k and v
// may be parts of one packed buffer.
//
// A query sees all keys; with `causal`, those up to itself; with a `window` above 0, so many of these at most. cuDNN's
// left bound keeps a key where key + bound > query, so the window is that bound.
//
// cuDNN is not linked: whoever opened it hands over its handle. A function returns 0, or writes a sentence.
#include <cudnn_frontend.h>

#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>

namespace fe = cudnn_frontend;

// What the frontend looks cuDNN's functions up in.
void* cudnn_frontend::cudnn_dlhandle = nullptr;

extern "C" {
struct wattle_attention_shape {
  int64_t batch, time, n_heads, n_kv_heads, head_width, qkv_row, out_row;
  float scale;
  int32_t deterministic, causal, window;
};

// Device addresses; a forward plan reads q, k, v and writes out, stats; a backward plan reads all of these and
// grad_out, and writes grad_q, grad_k, grad_v.
struct wattle_attention_tensors {
  void *q, *k, *v, *out, *stats, *grad_out, *grad_q, *grad_k, *grad_v;
};
}

namespace {

enum Uid : int64_t { kQ = 1, kK, kV, kOut, kStats, kGradOut, kGradQ, kGradK, kGradV };

using Shape = wattle_attention_shape;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;
using Dims = std::vector<int64_t>;

struct Plan {
  std::shared_ptr<fe::graph::Graph> graph;
  bool backward;
};

int fail(const std::string& why, char* message, size_t size) {
  if (size != 0) {
    std::strncpy(message, why.c_str(), size - 1);
    message[size - 1] = 0;
  }
  return 1;
}

// Runs `body`, which gives an error of the frontend's; nothing is thrown any further.
template <typename Body>
int guarded(char* message, size_t size, Body body) {
  try {
    fe::error_t error = body();
    return error.is_good() ? 0 : fail(error.get_message(), message, size);
  } catch (const std::exception& error) {
    return fail(error.what(), message, size);
  } catch (...) {
    return fail("an exception without a text", message, size);
  }
}

fe::error_t of_status(cudnnStatus_t status) {
  if (status == CUDNN_STATUS_SUCCESS) return {};
  return {fe::error_code_t::CUDNN_BACKEND_API_FAILED, fe::detail::get_error_string(status)};
}

// cuDNN counts dimensions as (b, h, t, d).
Dims dims(const Shape& s, int64_t heads) { return {s.batch, heads, s.time, s.head_width}; }
Dims strides(const Shape& s, int64_t row) { return {s.time * row, s.head_width, row, 1}; }
Dims stats_dims(const Shape& s) { return {s.batch, s.n_heads, s.time, 1}; }
Dims stats_strides(const Shape& s) { return {s.n_heads * s.time, s.time, 1, 1}; }

Tensor input(fe::graph::Graph& graph, const char* name, Uid uid, Dims dim, Dims stride) {
  return graph.tensor(fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim(dim).set_stride(stride));
}

void output(const Tensor& tensor, Uid uid, Dims dim, Dims stride) {
  tensor->set_output(true).set_uid(uid).set_dim(dim).set_stride(stride);
}

// Sets which keys a query sees, for either direction.
template <typename Attributes>
void set_mask(Attributes& attributes, const Shape& s) {
  if (s.causal == 0) return;
  attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
  if (s.window > 0) attributes.set_diagonal_band_left_bound(s.window);
}

std::shared_ptr<fe::graph::Graph> describe(const Shape& s, bool backward) {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const Dims q_dims = dims(s, s.n_heads), kv_dims = dims(s, s.n_kv_heads);
  const Dims qkv_strides = strides(s, s.qkv_row), out_strides = strides(s, s.out_row);
  auto q = input(*graph, "q", kQ, q_dims, qkv_strides);
  auto k = input(*graph, "k", kK, kv_dims, qkv_strides);
  auto v = input(*graph, "v", kV, kv_dims, qkv_strides);
  if (!backward) {
    auto attributes =
        fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true).set_attn_scale(s.scale);
    set_mask(attributes, s);
    auto [out, stats] = graph->sdpa(q, k, v, attributes);
    output(out, kOut, q_dims, out_strides);
    output(stats, kStats, stats_dims(s), stats_strides(s));
    stats->set_data_type(fe::DataType_t::FLOAT);
    return graph;
  }
  auto out = input(*graph, "out", kOut, q_dims, out_strides);
  auto grad_out = input(*graph, "grad_out", kGradOut, q_dims, out_strides);
  auto stats = input(*graph, "stats", kStats, stats_dims(s), stats_strides(s));
  stats->set_data_type(fe::DataType_t::FLOAT);
  auto attributes = fe::graph::SDPA_backward_attributes().set_name("attention_bwd").set_attn_scale(s.scale);
  set_mask(attributes, s);
  attributes.set_deterministic_algorithm(s.deterministic != 0);
  auto [grad_q, grad_k, grad_v] = graph->sdpa_backward(q, k, v, out, grad_out, stats, attributes);
  output(grad_q, kGradQ, q_dims, qkv_strides);
  output(grad_k, kGradK, kv_dims, qkv_strides);
  output(grad_v, kGradV, kv_dims, qkv_strides);
  return graph;
}

}  // namespace

extern "C" {

// Takes cuDNN as dlopen gave it, and makes a handle for work on `stream`, a CUstream of the current context.
int wattle_attention_open(void* library, void* stream, void** handle, char* message, size_t size) {
  return guarded(message, size, [&]() -> fe::error_t {
    fe::cudnn_dlhandle = library;
    cudnnHandle_t made = nullptr;
    fe::error_t error = of_status(fe::detail::create_handle(&made));
    if (error.is_bad()) return error;
    *handle = made;
    return of_status(fe::detail::set_stream(made, static_cast<cudaStream_t>(stream)));
  });
}

void wattle_attention_close(void* handle) {
  char none[1];
  guarded(none, 0, [&] { return of_status(fe::detail::destroy_handle(static_cast<cudnnHandle_t>(handle))); });
}

// cuDNN's version, as 91900, once it is open.
size_t wattle_attention_version() { return fe::detail::get_backend_version(); }

int wattle_attention_plan(void* handle, const Shape* shape, int32_t backward, void** plan, int64_t* workspace_bytes,
                          char* message, size_t size) {
  return guarded(message, size, [&]() -> fe::error_t {
    auto made = std::make_unique<Plan>(Plan{describe(*shape, backward != 0), backward != 0});
    fe::error_t error = made->graph->build(static_cast<cudnnHandle_t>(handle), {fe::HeurMode_t::A});
    if (error.is_bad()) return error;
    error = made->graph->get_workspace_size(*workspace_bytes);
    if (error.is_bad()) return error;
    *plan = made.release();
    return {};
  });
}

void wattle_attention_free(void* plan) { delete static_cast<Plan*>(plan); }

// Queues a plan; `workspace` has as many bytes as it was said to need.
int wattle_attention_run(void* handle, void* plan, const wattle_attention_tensors* t, void* workspace, char* message,
                         size_t size) {
  return guarded(message, size, [&]() -> fe::error_t {
    const Plan& p = *static_cast<Plan*>(plan);
    std::unordered_map<int64_t, void*> pointers = {{kQ, t->q}, {kK, t->k}, {kV, t->v}, {kOut, t->out}, {kStats, t->stats}};
    if (p.backward) {
      pointers.insert({{kGradOut, t->grad_out}, {kGradQ, t->grad_q}, {kGradK, t->grad_k}, {kGradV, t->grad_v}});
    }
    return p.graph->execute(static_cast<cudnnHandle_t>(handle), pointers, workspace);
  });
}

}  // extern "C"
