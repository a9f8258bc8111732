defmodule SnakeBridge.Pool.OutOfMemory do
  @moduledoc """
  How many processes the kernel has killed because memory had run out: in our control group where that can be read (both versions of cgroups),
  else on this machine. A SIGKILL after which the count has grown was the kernel's.
  """

  @doc "The count, or nil where there is none to read. `root` is where /proc and /sys are looked for."
  @spec kills(Path.t()) :: non_neg_integer() | nil
  def kills(root \\ "/") do
    case File.read(Path.join(root, "proc/self/cgroup")) do
      {:ok, groups} -> Enum.find_value(candidates(groups), &count(Path.join(root, &1)))
      {:error, _} -> nil
    end
  end

  @doc "Whether the count has grown between two readings."
  @spec grown?(non_neg_integer() | nil, non_neg_integer() | nil) :: boolean()
  def grown?(before, now), do: is_integer(before) and is_integer(now) and now > before

  # A container sees its own group as the root, whatever the group is called outside.
  defp candidates(groups) do
    groups = for line <- String.split(groups, "\n", trim: true), do: String.split(line, ":", parts: 3)

    files =
      for [_, controllers, path] <- groups, place <- Enum.uniq([path, "/"]) do
        cond do
          controllers == "" ->
            Path.join(["sys/fs/cgroup", place, "memory.events"])

          "memory" in String.split(controllers, ",") ->
            Path.join(["sys/fs/cgroup/memory", place, "memory.oom_control"])

          true ->
            nil
        end
      end

    Enum.reject(files, &is_nil/1) ++ ["proc/vmstat"]
  end

  defp count(file) do
    with {:ok, text} <- File.read(file),
         [_, digits] <- Regex.run(~r/^oom_kill (\d+)$/m, text),
         do: String.to_integer(digits),
         else: (_ -> nil)
  end
end
