defmodule SnakeBridge.Described do
  @moduledoc "Descriptions of Python modules as introspection answers them, made by hand."

  @doc "A module; `fields` replace what it has by default."
  def module(elixir, functions, fields \\ %{}) do
    Map.merge(
      %{
        "elixir" => elixir,
        "kind" => "module",
        "library" => "demo",
        "python_module" => "demo",
        "class" => nil,
        "doc" => "A module.",
        "version" => "1.2.3",
        "source_url" => nil,
        "bases" => [],
        "whole" => true,
        "functions" => functions
      },
      fields
    )
  end

  @doc "A class of the module `demo`."
  def class(elixir, name, functions),
    do: module(elixir, functions, %{"kind" => "class", "class" => name, "doc" => "A class."})

  @doc "A function."
  def function(name, params \\ [], fields \\ %{}) do
    Map.merge(
      %{
        "elixir" => name,
        "python" => name,
        "kind" => "function",
        "params" => params,
        "returns" => "term()",
        "stream" => false,
        "doc" => "Does #{name}.",
        "signature" => "#{name}(...)",
        "source" => "signature",
        "overloads" => [],
        "hash" => "0123456789abcdef"
      },
      fields
    )
  end

  @doc "A parameter: `:a` required, `[a: 1]`-like options by name of kind."
  def param(name, kind \\ "positional_or_keyword", required \\ true, spec \\ "term()") do
    %{
      "name" => name,
      "kind" => kind,
      "required" => required,
      "default" => if(required, do: nil, else: "None"),
      "spec" => spec,
      "doc" => nil
    }
  end
end
