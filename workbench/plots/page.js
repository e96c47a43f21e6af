"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const template = read("template");
  const config = read("config");
  const draw = (plot, figure) =>
    Plotly.react(plot, figure.data, Object.assign({}, figure.layout, { template }), config);
  for (const plot of document.querySelectorAll("[data-figure]")) {
    draw(plot, read(plot.dataset.figure));
  }
  for (const panel of document.querySelectorAll("[data-choices]")) {
    const choices = read(panel.dataset.choices);
    const [arms, runs] = panel.querySelectorAll("select");
    const plot = panel.querySelector(".plot");
    const show = () => draw(plot, choices[Number(runs.value)].figure);
    const offer = () => {
      const before = runs.selectedOptions.length ? runs.selectedOptions[0].text : "";
      runs.replaceChildren();
      choices.forEach((choice, index) => {
        if (choice.arm !== arms.selectedIndex) return;
        runs.add(new Option(choice.label, index, false, choice.label === before));
      });
      show();
    };
    arms.addEventListener("change", offer);
    runs.addEventListener("change", show);
    offer();
  }
})();
