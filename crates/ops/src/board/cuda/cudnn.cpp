// cuDNN's fused attention behind a C interface: which plans there are, for either pass; make one; run it.
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

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

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

// A graph whose engines' notes can be read.
struct Graph : fe::graph::Graph {
  // Whether cuDNN says of an engine that two runs may differ.
  bool may_differ(size_t idx) const {
    const auto& notes = plans.numeric_notes.at(idx);
    return std::find(notes.begin(), notes.end(), fe::NumericalNote_t::NONDETERMINISTIC) != notes.end();
  }
};

struct Plan {
  std::shared_ptr<Graph> graph;
  int64_t idx;
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

std::shared_ptr<Graph> describe(const Shape& s, bool backward) {
  auto graph = std::make_shared<Graph>();
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

// The plans of a graph that can be chosen from, by number and name, cuDNN's best guess first. A name is the engine's
// number and what its knobs are set to, and means the same to one version of cuDNN.
//
// A fixed order of sums is a property of the graph that is described. An engine that is noted to differ from run to run
// all the same is left out, unless there is no other: then the note is about what the engine does for other graphs.
struct Offer {
  std::shared_ptr<Graph> graph;
  std::vector<std::pair<int64_t, std::string>> plans;
};

fe::error_t offer(cudnnHandle_t handle, const Shape& s, bool backward, Offer& offer) {
  auto graph = offer.graph = describe(s, backward);
  fe::error_t error = graph->validate();
  if (error.is_good()) error = graph->build_operation_graph(handle);
  if (error.is_good()) {
    error = graph->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::B, fe::HeurMode_t::FALLBACK});
  }
  if (error.is_bad()) return error;
  std::vector<std::pair<int64_t, std::string>> differing;
  for (int64_t idx = 0; idx < graph->get_execution_plan_count(); ++idx) {
    std::string name;
    error = graph->get_plan_name_at_index(idx, name);
    if (error.is_bad()) return error;
    auto has_it = [&](const auto& plans) {
      return std::any_of(plans.begin(), plans.end(), [&](const auto& plan) { return plan.second == name; });
    };
    if (has_it(offer.plans) || has_it(differing)) continue;
    auto& plans = s.deterministic != 0 && graph->may_differ(idx) ? differing : offer.plans;
    plans.emplace_back(idx, name);
  }
  if (offer.plans.empty()) offer.plans = std::move(differing);
  return {};
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

// Writes the names of the plans that there are for a pass, each on a line of its own, into `names`.
int wattle_attention_names(void* handle, const Shape* shape, int32_t backward, char* names, size_t names_size,
                           char* message, size_t size) {
  return guarded(message, size, [&]() -> fe::error_t {
    Offer offered;
    fe::error_t error = offer(static_cast<cudnnHandle_t>(handle), *shape, backward != 0, offered);
    if (error.is_bad()) return error;
    std::string lines;
    for (const auto& [idx, name] : offered.plans) {
      // What does not fit is not offered.
      if (lines.size() + name.size() + 2 <= names_size) lines += name + "\n";
    }
    std::memcpy(names, lines.c_str(), lines.size() + 1);
    return {};
  });
}

// Makes the plan called `name`; this may take seconds.
int wattle_attention_plan(void* handle, const Shape* shape, int32_t backward, const char* name, void** plan,
                          int64_t* workspace_bytes, char* message, size_t size) {
  return guarded(message, size, [&]() -> fe::error_t {
    Offer offered;
    fe::error_t error = offer(static_cast<cudnnHandle_t>(handle), *shape, backward != 0, offered);
    if (error.is_bad()) return error;
    auto found = std::find_if(offered.plans.begin(), offered.plans.end(),
                              [&](const auto& plan) { return plan.second == name; });
    if (found == offered.plans.end()) {
      return {fe::error_code_t::INVALID_VALUE, std::string("it has no plan ") + name};
    }
    auto made = std::make_unique<Plan>(Plan{offered.graph, found->first, backward != 0});
    error = made->graph->build_plan_at_index(made->idx);
    if (error.is_good()) error = made->graph->get_workspace_size_plan_at_index(made->idx, *workspace_bytes);
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
    return p.graph->execute_plan_at_index(static_cast<cudnnHandle_t>(handle), pointers, workspace, p.idx);
  });
}

}  // extern "C"
