#include "export_target.h"

#include <cstdint>

#include <modelopt/checkpoint/export/export_checkpoint.h>

#include "exit_code.h"
#include "interrupt.h"
#include "progress_bar.h"

namespace modelopt::cli {

void add_export_options(CLI::App& command, ExportTarget& target, const std::string& configuration) {
  command
      .add_option("--export,--export_dir", target.directory,
                  "write a HuggingFace directory that carries " + configuration)
      ->type_name("DIR");
  command.add_flag("--overwrite", target.overwrite, "let --export replace an existing model directory");
}

void check_export(const ExportTarget& target, const std::string& model) {
  if (target.directory.empty())
    MODELOPT_CHECK(!target.overwrite, UsageError, "--overwrite has an effect only with --export");
  else
    checkpoint::check_export_target(model, target.directory, target.overwrite);
}

void write_export(const ModelSession& session, const eval::NamedConfig& config, const ExportTarget& target,
                  const CommonOptions& common) {
  const SparsifyReport report = apply_configs(session, {config});
  const InterruptScope interrupt;
  ProgressBar bar("exporting", progress_mode(common));
  checkpoint::ExportOptions export_options;
  export_options.overwrite = target.overwrite;
  export_options.progress = [&](std::uint64_t done, std::uint64_t total) {
    interrupt.check();
    bar.update(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
  };
  try {
    checkpoint::export_checkpoint(session.directory, target.directory, config.config, report, export_options);
  } catch (const DataError& error) {
    throw Error(error.what());  // the source was read already: this is about writing, exit code 1
  }
}

}  // namespace modelopt::cli
