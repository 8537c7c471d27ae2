// Greedy decoding of an edgegpt bundle with ONNX Runtime's C++ API:
//
//     greedy BUNDLE LOWERING COUNT ID...
//
// continues the token ids by up to COUNT new ones and prints these. LOWERING names the decoder: ort
// or standard with ONNX Runtime 1.25 or later, legacy with older ones. The exit code is 2 if the
// arguments or the bundle are refused, and 1 if ONNX Runtime fails.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using nlohmann::json;
using Ids = std::vector<int64_t>;

constexpr int kFormatVersion = 5;  // of edgegpt.json

struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One text: it is fed to the decoder piece by piece, and its key/value cache is updated in place.
class Text {
 public:
  // Opens a graph of the manifest, with a cache for `slots` tokens.
  Text(const Ort::Env& env, const std::filesystem::path& bundle, const json& graph, int64_t slots)
      : session_(env, (bundle / graph.at("file").get<std::string>()).c_str(),
                 Ort::SessionOptions{}),
        binding_(session_),
        slots_(slots) {
    for (const json& port : graph.at("inputs")) {
      if (port.at("role") == "cache") {
        bind_cache(port);
      } else {
        inputs_.push_back(port);
      }
    }
    for (const json& port : graph.at("outputs")) {
      if (port.at("role") != "logits") continue;
      const Ids shape = sized(port, 1);
      logits_.resize(shape.back());
      binding_.BindOutput(name_of(port), view(logits_, shape));
    }
  }

  // Feeds ids and returns the likeliest id to follow; of several, the lowest.
  int64_t feed(Ids ids) {
    const int64_t count = ids.size();
    Ids positions(count);
    for (int64_t i = 0; i < count; ++i) positions[i] = filled_ + i;
    const auto last = static_cast<int32_t>(filled_ + count - 1);
    std::map<std::string, Ids> wide{{"ids", std::move(ids)},
                                    {"past_len", {filled_}},
                                    {"position_ids", std::move(positions)},
                                    {"logit_positions", {count - 1}}};
    std::map<std::string, std::vector<int32_t>> narrow{{"seqlens_k", {last}},
                                                       {"total_sequence_length", {last + 1}}};
    for (const json& port : inputs_) {
      const std::string role = port.at("role");
      const Ids shape = sized(port, count);
      binding_.BindInput(name_of(port), wide.count(role) ? view(wide.at(role), shape)
                                                         : view(narrow.at(role), shape));
    }
    session_.Run(Ort::RunOptions{}, binding_);
    filled_ += count;
    return std::max_element(logits_.begin(), logits_.end()) - logits_.begin();
  }

 private:
  static const char* name_of(const json& port) {
    return port.at("name").get_ref<const std::string&>().c_str();
  }

  // Returns the shape of a port in a step of `count` new tokens.
  Ids sized(const json& port, int64_t count) const {
    const std::map<std::string, int64_t> axes{
        {"batch", 1}, {"new_tokens", count}, {"logit_positions", 1}, {"context", slots_}};
    Ids shape;
    for (const json& axis : port.at("shape")) {
      shape.push_back(axis.is_string() ? axes.at(axis) : axis.get<int64_t>());
    }
    return shape;
  }

  // Returns a tensor that lies in `data`, which has to outlive its use.
  template <typename Number>
  Ort::Value view(std::vector<Number>& data, const Ids& shape) const {
    return Ort::Value::CreateTensor(memory_, data.data(), data.size(), shape.data(), shape.size());
  }

  // Binds a cache as input and as output at once: a step writes its new slots, and copies nothing.
  void bind_cache(const json& port) {
    const bool half = port.at("dtype") == "float16";
    const Ids shape = sized(port, 1);
    size_t bytes = half ? 2 : 4;
    for (const int64_t size : shape) bytes *= size;
    caches_.emplace_back(bytes);  // zeros: a masked slot counts 0 times its value, which may be NaN
    const auto cache = Ort::Value::CreateTensor(
        memory_, caches_.back().data(), bytes, shape.data(), shape.size(),
        half ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    binding_.BindInput(name_of(port), cache);
    binding_.BindOutput(port.at("present").get_ref<const std::string&>().c_str(), cache);
  }

  const Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  Ort::Session session_;
  Ort::IoBinding binding_;
  std::vector<json> inputs_;  // but for the caches
  std::vector<std::vector<char>> caches_;
  std::vector<float> logits_;
  int64_t slots_, filled_ = 0;
};

json manifest_of(const std::filesystem::path& bundle) {
  std::ifstream file(bundle / "edgegpt.json");
  if (!file) throw Refusal("no bundle at " + bundle.string() + ": it has no edgegpt.json");
  json manifest = json::parse(file);
  if (manifest.at("format_version") != kFormatVersion) {
    throw Refusal("edgegpt.json has format version " + manifest.at("format_version").dump() +
                  "; this program reads " + std::to_string(kFormatVersion) +
                  ": export the model again");
  }
  if (manifest.at("model").contains("encoder")) {
    throw Refusal(bundle.string() + " is an encoder-decoder; this program runs decoders only");
  }
  return manifest;
}

const json& decoder_of(const json& manifest, const std::string& lowering) {
  const std::string version = Ort::GetVersionString();
  int major = 0, minor = 0;
  std::sscanf(version.c_str(), "%d.%d", &major, &minor);
  if (lowering != "legacy" && std::pair(major, minor) < std::pair(1, 25)) {
    throw Refusal("ONNX Runtime " + version + " computes " + lowering +
                  " wrongly or not at all: take 1.25 or later, or legacy");
  }
  std::string others;
  for (const json& graph : manifest.at("graphs")) {
    if (graph.at("part") != "decoder") continue;
    if (graph.at("lowering") == lowering) return graph;
    others += " " + graph.at("lowering").get<std::string>();
  }
  throw Refusal("the bundle has no decoder " + lowering + "; it has:" + others);
}

int64_t number(const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || value < least || value > most) {
    throw Refusal(text + " is no whole number from " + std::to_string(least) + " to " +
                  std::to_string(most));
  }
  return value;
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) throw Refusal("usage: greedy BUNDLE LOWERING COUNT ID...");
  const json manifest = manifest_of(arguments[0]);
  const json &graph = decoder_of(manifest, arguments[1]), &model = manifest.at("model");
  const int64_t context = model.at("block_size"),
                last_id = model.at("vocab_size").get<int64_t>() - 1;
  const int64_t count = number(arguments[2], 1, context);
  Ids ids;
  for (size_t i = 3; i < arguments.size(); ++i) ids.push_back(number(arguments[i], 0, last_id));
  const int64_t slots = ids.size() + count - 1;  // the last new token is not fed
  if (slots > context) {
    throw Refusal(std::to_string(ids.size()) + " tokens and " + std::to_string(count) +
                  " new ones do not fit the model's context of " + std::to_string(context) +
                  ": take fewer");
  }
  const json usage = manifest.at("usage");
  const Ids ends = usage.is_null() ? Ids{} : usage.at("end_ids").get<Ids>();

  const Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Text text(env, arguments[0], graph, slots);
  for (int64_t n = 0; n < count; ++n) {
    ids = {text.feed(ids)};
    std::printf("%lld\n", static_cast<long long>(ids[0]));
    std::fflush(stdout);
    if (std::count(ends.begin(), ends.end(), ids[0])) break;
  }
}

int main(int argc, char** argv) {
#ifdef _WIN32
  _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);  // read when the first Ort::Env is made
#endif
  try {
    run({argv + 1, argv + argc});
    return 0;
  } catch (const Refusal& error) {
    return std::fprintf(stderr, "error: %s\n", error.what()), 2;
  } catch (const json::exception& error) {
    return std::fprintf(stderr, "error: edgegpt.json is damaged: %s\n", error.what()), 2;
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "error: %s\n", error.what()), 1;
  }
}
